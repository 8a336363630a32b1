//! Reading a replica's intent map from the drive when the drive is opened.
//!
//! A new replica has no map yet: its pages are written one after the other before anything is served. So a map whose last page was
//! never written has never been used. A page that is damaged in both copies can say anything: all its bits count as set.

use super::regions::Regions;
use crate::base::{ErrorKind, Uuid};
use crate::bdev::intent::MapLayout;
use crate::bdev::intent::page::{self, Page};

/// What has been read so far.
pub(super) struct Loading {
    layout: MapLayout,
    set: Uuid,
    pages: Vec<[Found; 2]>,
    missing: usize,
    formatting: bool,
}

/// What a copy of a page holds.
#[derive(Clone, Debug, Default)]
enum Found {
    #[default]
    Unknown,
    Never,
    Damaged,
    Page(Page),
}

impl Loading {
    pub fn new(layout: MapLayout, set: Uuid) -> Loading {
        let pages = vec![<[Found; 2]>::default(); layout.pages() as usize];
        Loading { layout, set, missing: pages.len() * 2, pages, formatting: false }
    }

    /// A copy of a page was read; `None` when it cannot be.
    pub fn page(&mut self, index: u32, copy: u32, bytes: Option<&[u8]>) {
        let found = match bytes {
            None => Found::Damaged,
            Some(bytes) => match page::decode(&self.layout, self.set, index, &mut bytes.to_vec()) {
                Ok(page) => Found::Page(page),
                Err(error) if error.kind() == ErrorKind::NotFound => Found::Never,
                Err(_) => Found::Damaged,
            },
        };
        let Some(place) =
            self.pages.get_mut(index as usize).and_then(|pages| pages.get_mut(copy as usize))
        else {
            return;
        };
        if matches!(place, Found::Unknown) {
            self.missing -= 1;
            *place = found;
        }
    }

    /// When everything was read, hands it over; whether the map is in use already, or has to be written first.
    pub fn finish(&mut self, regions: &mut Regions) -> Option<bool> {
        if self.missing > 0 || self.formatting {
            return None;
        }
        let never = |found: &[Found; 2]| matches!(found, [Found::Never, Found::Never]);
        if self.pages.last().is_some_and(never) {
            self.formatting = true;
            return Some(false);
        }
        let mut doubtful = false;
        for (index, copies) in self.pages.iter().enumerate() {
            let intact = copies.iter().filter_map(|found| match found {
                Found::Page(page) => Some(page),
                _ => None,
            });
            let newest = intact.max_by_key(|page| page.generation);
            doubtful |= newest.is_none();
            regions.load(index as u32, newest);
        }
        if doubtful {
            regions.format();
        }
        Some(true)
    }

    /// Whether the map is being written for the first time.
    pub fn is_formatting(&self) -> bool {
        self.formatting
    }
}
