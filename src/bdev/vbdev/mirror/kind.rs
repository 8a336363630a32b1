//! The level raid1 in the table of raids: mirrors that are made, and those that are found by their labels.

use std::cell::Cell;
use std::rc::Rc;

use super::assemble::Assemblies;
use super::options::RaidOptions;
use super::raid::{MirrorRaid, check, make, open_all};
use crate::base::{Error, Result};
use crate::bdev::Registry;
use crate::bdev::vbdev::raid::{Raid, RaidFuture, RaidKind, RaidLevel, RaidSpec};
use crate::bdev::vbdev::raids::Raids;

/// The level raid1 for the table of raids. It also finds mirrors by the labels on their legs.
pub struct MirrorKind {
    options: Rc<Cell<RaidOptions>>,
    assemblies: Rc<Assemblies>,
}

impl MirrorKind {
    /// The level, for `raids`. From now on every bdev that is registered is looked at for a label.
    pub fn new(registry: &Registry, raids: &Raids) -> Rc<MirrorKind> {
        let options = Rc::new(Cell::new(RaidOptions::default()));
        let assemblies = Assemblies::start(registry, raids, &options);
        Rc::new(MirrorKind { options, assemblies })
    }

    /// The options of mirrors that are made from now on.
    pub fn options(&self) -> RaidOptions {
        self.options.get()
    }

    /// Sets the options of mirrors that are made from now on.
    ///
    /// # Errors
    /// `Invalid` for a window of 0.
    pub fn set_options(&self, options: RaidOptions) -> Result<()> {
        if options.process_window_size_kb == 0 {
            return Err(Error::invalid("process_window_size_kb is 0 (1 or more is possible)"));
        }
        self.options.set(options);
        Ok(())
    }
}

impl RaidKind for MirrorKind {
    fn level(&self) -> RaidLevel {
        RaidLevel::Raid1
    }

    fn check(&self, spec: &RaidSpec) -> Result<()> {
        check(spec)
    }

    fn create(&self, registry: Registry, spec: RaidSpec) -> RaidFuture<'static, Rc<dyn Raid>> {
        let made = open_all(&registry, &spec);
        let options = self.options.get();
        let assemblies = Rc::clone(&self.assemblies);
        Box::pin(async move {
            let control = make(&registry, spec, made?, options).await?;
            assemblies.started(&control);
            Ok(Rc::new(MirrorRaid::running(control)) as Rc<dyn Raid>)
        })
    }
}
