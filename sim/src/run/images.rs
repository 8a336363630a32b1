//! Drives and stores that fall back to an image of themselves, are copied, or are lost.
//!
//! The mesh knows an image by what was opened since it was made. An image of the present opening it cannot know, and of the log's members a
//! majority must remember: so no other image comes back, and no store is harmed while another member's memory of it is in doubt.

use weft::consensus::store::MemoryStore;
use weft::mesh::ids::DriveId;
use weft::mesh::picture::Picture;

use super::{Run, setup};
use crate::plan::SECOND;
use crate::world::drive::{Drive, Label, Medium};
use crate::world::host::Activity;
use crate::world::machine::Machine;
use crate::world::store::Store;

/// What a drive held.
pub(super) type DriveImage = (Label, Medium);

/// What a store held, and which start of its daemon that was.
pub(super) struct StoreImage {
    store: MemoryStore,
    boots: u32,
}

/// A daemon that is so many entries behind may not know of an opening that was decided.
const BEHIND_MAX: u64 = 20;

impl<M: Machine> Run<M> {
    pub(super) fn save_drive(&mut self, drive: usize) {
        let image = self.world.drives[self.drives[drive]].image();
        self.drive_images.insert(drive, image);
    }

    /// The image of a drive, if the log has an opening of that drive that came after it.
    fn old_image(&mut self, drive: usize) -> Option<DriveImage> {
        let image = self.drive_images.remove(&drive)?;
        let label = image.0;
        let known = self.best_picture()?.drive_by_uuid(label.uuid)?;
        let is_old = known.nonce != label.nonce && !label.before.contains(&known.nonce);
        if !is_old {
            self.say(None, || format!("drive {drive} was not opened since: its image is not used"));
        }
        is_old.then_some(image)
    }

    pub(super) fn restore_drive(&mut self, drive: usize) {
        let which = self.drives[drive];
        let Some(host) = self.world.drives[which].host else { return };
        if !self.is_spare(drive) {
            return;
        }
        let Some(image) = self.old_image(drive) else { return };
        self.crash(host, true);
        self.world.drives[which].restore(image);
        self.start_soon(host);
    }

    /// Whether all that a drive holds is on another drive as well, which works.
    pub(super) fn is_spare(&mut self, drive: usize) -> bool {
        let uuid = self.world.drives[self.drives[drive]].label.uuid;
        let is_spare = self.best_picture().is_some_and(|picture| {
            let Some(known) = picture.drive_by_uuid(uuid) else { return true };
            picture.groups().all(|group| {
                let mut replicas = group.replicas.iter();
                replicas.all(|replica| replica.drive != known.id)
                    || group.replicas.iter().any(|replica| {
                        replica.drive != known.id
                            && replica.state.is_holder()
                            && self.works(picture, replica.drive)
                    })
            })
        });
        if !is_spare {
            self.say(None, || format!("drive {drive} may hold the last copy: it is spared"));
        }
        is_spare
    }

    /// Whether a drive is in a host that runs, opened as the log has it, and well.
    fn works(&self, picture: &Picture, drive: DriveId) -> bool {
        let Some(known) = picture.drive(drive) else { return false };
        self.world.drives.iter().any(|drive| {
            (drive.label.uuid, drive.label.nonce) == (known.uuid, known.nonce)
                && drive.ailment.works()
                && drive.host.is_some_and(|host| self.world.hosts[host].activity == Activity::Up)
        })
    }

    /// A drive that holds what another held appears in a host.
    pub(super) fn clone_drive(&mut self, drive: usize, into: usize) {
        let speed = self.world.drives[self.drives[drive]].speed;
        let Some(image) = self.old_image(drive) else { return };
        let mut clone = Drive::new(image.0.uuid, setup::drive_blocks(), speed, self.random.fork());
        clone.restore(image);
        let clone = self.world.add_drive(clone, None);
        self.world.plug(clone, into);
    }

    pub(super) fn save_store(&mut self, host: usize) {
        let store = self.world.hosts[host].store.image();
        let boots = self.world.hosts[host].boots;
        self.store_images.insert(host, StoreImage { store, boots });
    }

    pub(super) fn restore_store(&mut self, host: usize) {
        let Some(image) = self.store_images.remove(&host) else { return };
        let is_old = self.world.hosts[host].boots > image.boots;
        if !is_old || !self.is_remembered(host) {
            return self.say(Some(host), || "its store's image is not used".into());
        }
        self.crash(host, false);
        self.world.hosts[host].store.restore(image.store);
        self.start_soon(host);
    }

    /// A store that is gone: its node comes back with an empty one, under another name.
    pub(super) fn wipe_store(&mut self, host: usize) {
        if !self.is_remembered(host) {
            return self.say(Some(host), || "its store is not lost now".into());
        }
        self.crash(host, false);
        let store = setup::uuid(&mut self.random);
        let node = self.world.hosts[host].node;
        self.world.hosts[host].store = Store::new(node, store);
        self.start_soon(host);
    }

    /// Whether enough others know what a host's daemon has decided, and that its store was opened.
    fn is_remembered(&self, host: usize) -> bool {
        let now = self.world.now();
        let Some(last) = self.best_picture().map(|picture| picture.applied().0) else {
            return false;
        };
        let is_up_to_date = |host: &crate::world::host::Host<M>| {
            host.machine.as_ref().is_some_and(|machine| {
                machine.has_lease(host.clock.read(now))
                    && machine.picture().applied().0 + BEHIND_MAX > last
            })
        };
        let is_alone = self.members.len() < 3 && self.members.contains(&host);
        !is_alone && self.world.hosts.iter().all(is_up_to_date)
    }

    pub(super) fn start_soon(&mut self, host: usize) {
        let after = self.random.between(SECOND / 10, SECOND);
        self.wake_in(after, super::Wake::Start(host));
    }
}
