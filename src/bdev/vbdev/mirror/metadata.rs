//! Labels and pages of the intent map, to and from legs.

use std::rc::Rc;

use super::leg_io::LegIo;
use super::shared::{Shared, lock};
use crate::base::{BlockCount, Error, ErrorKind, Geometry, Result, Uuid};
use crate::bdev::intent::{IntentMap, MapLayout, page};
use crate::bdev::label::{self, COPY_OFFSETS, LABEL_BYTES, LABELS_END, Label, Places};
use crate::reactor::Context;

/// [`Label::kind`] of a mirror.
pub(super) const KIND: u32 = 1;

/// Data start on a multiple of this.
const DATA_ALIGNMENT: u64 = 1 << 20;

/// Bytes of a label as it is read and written: whole blocks.
fn label_span(geometry: Geometry) -> u32 {
    geometry.block_size.bytes().max(LABEL_BYTES as u32)
}

/// Reads the newer label of a leg, and which copy it is.
///
/// # Errors
/// `NotFound` when there is none; `Corrupt` when what there is is damaged; `Io` when the leg fails.
pub(super) async fn read_label(io: &LegIo) -> Result<(Label, usize)> {
    let span = label_span(io.geometry());
    if io.geometry().capacity().0 < LABELS_END {
        return Err(Error::new(ErrorKind::NotFound, "too small for a label"));
    }
    let mut copies = [[0; LABEL_BYTES]; 2];
    for (copy, offset) in copies.iter_mut().zip(COPY_OFFSETS) {
        let buffer = io.read_bytes(offset, span).await?;
        copy.copy_from_slice(&buffer.bytes()[..LABEL_BYTES]);
    }
    label::newest([&copies[0], &copies[1]])
}

/// Writes copy `copy` of a leg's label, durably.
pub(super) async fn write_label(
    cx: &Context,
    io: &LegIo,
    copy: usize,
    label: &Label,
) -> Result<()> {
    let span = label_span(io.geometry());
    let mut buffer = cx.pool().take(span as usize)?;
    buffer.bytes_mut()[..span as usize].fill(0);
    buffer.bytes_mut()[..LABEL_BYTES].copy_from_slice(&label::encode(label));
    io.write_bytes(COPY_OFFSETS[copy], span, &mut buffer).await
}

/// Wipes both copies of a leg's label.
pub(super) async fn wipe_label(cx: &Context, io: &LegIo) -> Result<()> {
    let span = label_span(io.geometry());
    let mut buffer = cx.pool().take(span as usize)?;
    buffer.bytes_mut()[..span as usize].fill(0);
    for offset in COPY_OFFSETS {
        io.write_bytes(offset, span, &mut buffer).await?;
    }
    Ok(())
}

/// The largest mirror, with its label's places, that fits on a leg of `blocks` blocks.
///
/// # Errors
/// `Invalid` when not a block is left for data.
pub(super) fn fit(leg: Geometry) -> Result<(Geometry, Places)> {
    // The map of the whole leg is a little more than the map of its data needs.
    let layout = MapLayout::new(leg)?;
    let data = (LABELS_END + layout.medium_bytes()).next_multiple_of(DATA_ALIGNMENT);
    let left = leg.capacity().0.saturating_sub(data) >> leg.block_size.shift();
    if left == 0 {
        return Err(Error::invalid(format!(
            "{} bytes are too few for a label, an intent map and data (more than {data} are needed)",
            leg.capacity()
        )));
    }
    let geometry = Geometry::new(leg.block_size, BlockCount(left))?;
    let places = Places {
        data,
        map: LABELS_END,
        map_page: layout.page_bytes(),
        region_shift: layout.region_shift(),
    };
    Ok((geometry, places))
}

/// The layout of the map that a label describes.
///
/// # Errors
/// `Corrupt` when the map does not fit between its start and the data.
pub(super) fn layout_of(label: &Label) -> Result<MapLayout> {
    let places = label.places;
    let layout = MapLayout::with_shift(label.geometry, places.region_shift, places.map_page)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("label: {error}")))?;
    if layout.medium_bytes() > places.data - places.map {
        return Err(Error::new(ErrorKind::Corrupt, "label: the map reaches into the data"));
    }
    Ok(layout)
}

/// Adds what the map of one leg says to `map`. What cannot be read counts as set. Returns how many pages
/// could not be read.
pub(super) async fn load_map(io: &LegIo, places: Places, set: Uuid, map: &mut IntentMap) -> u32 {
    let layout = *map.layout();
    let mut unknown = 0;
    for index in 0..layout.pages() {
        let page = load_page(io, places, set, &layout, index).await;
        if let Err(error) = &page {
            unknown += 1;
            tracing::error!(leg = io.name(), %error, "all of a map page's regions count as written");
        }
        map.merge(index, page.as_ref().ok());
    }
    unknown
}

async fn load_page(
    io: &LegIo,
    places: Places,
    set: Uuid,
    layout: &MapLayout,
    index: u32,
) -> Result<page::Page> {
    let bytes = layout.page_bytes();
    let at = |copy| places.map + layout.page_offset(index, copy);
    let mut one = io.read_bytes(at(0), bytes).await?;
    let mut two = io.read_bytes(at(1), bytes).await?;
    let length = bytes as usize;
    let copies = [&mut one.bytes_mut()[..length], &mut two.bytes_mut()[..length]];
    page::newest(layout, set, index, copies)
}

/// Writes every page of the map that has changes to all of `legs`, until none has. Returns the legs that
/// failed, as indices into `legs`; with any, the pages are to be written again.
pub(super) async fn write_pages(cx: &Context, shared: &Shared, legs: &[Rc<LegIo>]) -> Vec<usize> {
    let layout = *shared.tracker.layout();
    let shift = shared.geometry.block_size.shift();
    let Ok(mut buffer) = cx.pool().take(layout.page_bytes() as usize) else {
        return (0..legs.len()).collect();
    };
    loop {
        let (write, is_clean) = {
            let mut map = lock(&shared.map);
            let write = map.next_write(&mut buffer.bytes_mut()[..layout.page_bytes() as usize]);
            (write, map.is_clean())
        };
        let Some(write) = write else {
            if is_clean {
                return Vec::new();
            }
            // A queue is writing one.
            cx.yield_now().await;
            continue;
        };
        let offset = (shared.offsets.map << shift) + layout.page_offset(write.page, write.copy);
        let mut failed = Vec::new();
        for (index, io) in legs.iter().enumerate() {
            if let Err(error) = io.write_bytes(offset, layout.page_bytes(), &mut buffer).await {
                tracing::warn!(%error, "a page of the intent map cannot be written");
                failed.push(index);
            }
        }
        let mut map = lock(&shared.map);
        let tracker = &shared.tracker;
        map.finish_write(write, failed.is_empty(), |word, bits| tracker.publish(word, bits));
        if !failed.is_empty() {
            return failed;
        }
    }
}
