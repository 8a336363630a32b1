//! Attaching: from a transport to a controller that serves I/O.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::mpsc;
use tracing::{debug, info, warn};
use zerocopy::FromBytes;

use super::{Controller, ControllerOptions, Notice, PAGE, Properties, State, Watcher};
use crate::base::{Error, ErrorKind, Result};
use crate::memory::{Region, RegionId, RegionOptions, RegionView, Sharing};
use crate::nvme::admin::AdminQueue;
use crate::nvme::bell::{Bell, Shadow};
use crate::nvme::commands;
use crate::nvme::link::{Event, Link};
use crate::nvme::memory::{PAGE_SIZE, QueueMemory};
use crate::nvme::pair::{Parts, QueuePair};
use crate::nvme::payload::{Lists, RegionTable, Scatter};
use crate::nvme::regions::Regions;
use crate::nvme::ring::{CompletionRing, SubmissionRing};
use crate::nvme::spec::{
    AsyncEventConfiguration, Capabilities, DoorbellKind, FeatureId, IdentifyCns,
    IdentifyController, NumberOfQueues, Register, SglSupport, VOLATILE_WRITE_CACHE_ENABLED,
    Version, doorbell_offset,
};
use crate::nvme::transport::{Transport, beyond_window};
use crate::nvme::trouble::{RetryPolicy, TroubleSender};
use crate::reactor::{Context, Reactors, Tsc};

/// Entries of the admin queues.
const ADMIN_ENTRIES: u32 = 64;
/// Descriptor lists of the admin queue, a page each.
const ADMIN_LISTS: usize = 8;
/// Asynchronous event requests that are kept outstanding, at most.
const EVENTS: u32 = 4;
/// Longest data transfer of one I/O command, whatever the controller takes: longer ones gain nothing.
const TRANSFER_MAX: u32 = 1 << 20;
/// Most descriptor lists of a queue pair: only long or scattered transfers need one.
const LISTS_MAX: usize = 256;
/// Most data blocks in the SGL of one command: a list of one page.
pub(super) const SGL_SEGMENTS: u16 = (PAGE_SIZE / 16) as u16;

/// The longest data transfer of one I/O command, in bytes.
pub(super) fn transfer_max(identify: &IdentifyController, cap: Capabilities) -> u32 {
    let own = identify.transfer_bytes_max(cap.page_size_min()).unwrap_or(u64::MAX);
    own.min(u64::from(TRANSFER_MAX)) as u32
}

/// Whether I/O commands may have SGLs.
pub(super) fn scatter(identify: &IdentifyController) -> Scatter {
    match identify.sgl_support() {
        SglSupport::None => Scatter::Prp,
        SglSupport::Bytes | SglSupport::Dwords => Scatter::Sgl,
    }
}

impl Controller {
    /// Attaches the controller behind `transport`: enables it, makes its queues, finds its namespaces. `watcher` is told
    /// of the namespaces, then of all that happens later. `reactors` are those that will do I/O; without them
    /// only the reactor of `cx` does.
    ///
    /// # Errors
    /// When the controller is gone, cannot be driven, does not become ready, or grants no queue.
    pub async fn attach(
        cx: &Context,
        reactors: Option<Reactors>,
        transport: Arc<dyn Transport>,
        options: ControllerOptions,
        watcher: Watcher,
    ) -> Result<Rc<Controller>> {
        let properties = Properties::read(cx, &*transport).await?;
        let first_doorbells = Register::DOORBELLS + 2 * properties.cap.doorbell_stride_bytes();
        if transport.window() < u64::from(first_doorbells) {
            return Err(beyond_window(&*transport, first_doorbells));
        }
        // Whoever had it before may have left it running.
        properties.disable(cx, &*transport).await?;

        let mut memory = queue_memory(
            cx,
            &*transport,
            [
                SubmissionRing::bytes(ADMIN_ENTRIES),
                CompletionRing::bytes(2 * ADMIN_ENTRIES),
                ADMIN_LISTS * PAGE_SIZE,
                2 * PAGE_SIZE,
            ],
        )
        .await?;
        // CAP.MQES is of I/O queues (section 3.1.3.1).
        let size = ADMIN_ENTRIES;
        let bell = |kind| bell(&transport, 0, kind, properties.cap);
        let admin = AdminQueue::new(
            transport.address(),
            SubmissionRing::new(memory.cut(SubmissionRing::bytes(size))?, size),
            CompletionRing::new(memory.cut(CompletionRing::bytes(size))?, size),
            (bell(DoorbellKind::SubmissionTail)?, bell(DoorbellKind::CompletionHead)?),
            Lists::new(memory.cut(ADMIN_LISTS * PAGE_SIZE)?, PAGE_SIZE),
        );
        let (sender, receiver) = mpsc::unbounded();
        let controller = Rc::new(Controller {
            cx: cx.clone(),
            link: Link::new(transport.address(), reactors.clone(), sender),
            options: RefCell::new(options),
            properties,
            identify: RefCell::new(IdentifyController::zeroed()),
            admin,
            regions: Regions::new(cx.pool().registry().subscribe()),
            memory: RefCell::new(vec![memory]),
            shadows: RefCell::new(None),
            state: Cell::new(State::Resetting),
            namespaces: RefCell::default(),
            write_cache: Cell::new(true),
            write_zeroes_max: Cell::new(None),
            watcher: RefCell::new(Some(watcher)),
            orders: RefCell::default(),
            events: RefCell::new(Some(receiver)),
            reactors,
            transport,
        });
        match controller.start().await {
            Ok(()) => Ok(controller),
            Err(error) => {
                // It must not touch our memory after this.
                controller.put_down().await;
                Err(error.context("attach"))
            }
        }
    }

    async fn start(self: &Rc<Self>) -> Result<()> {
        self.follow_regions().await;
        self.enable().await?;
        self.make_pairs().await?;
        self.create_queues().await?;
        self.state.set(State::Ready);
        self.notify(Notice::State(State::Ready)).await;
        self.rescan().await?;
        let identify = self.identify.borrow();
        info!(
            controller = self.transport.address(),
            model = identify.model_number(),
            serial = identify.serial_number(),
            firmware = identify.firmware_revision(),
            version = %self.properties.version,
            queues = self.link.pair_count(),
            namespaces = self.namespaces.borrow().len(),
            "NVMe controller attached"
        );
        let own = Rc::clone(self);
        self.cx.spawn(async move { own.run().await });
        Ok(())
    }

    /// Enables the controller and asks who it is.
    pub(super) async fn enable(&self) -> Result<()> {
        let transport = &*self.transport;
        self.properties.enable(&self.cx, transport, self.admin.rings()).await?;
        self.admin.set_live(true);
        let command = commands::identify(IdentifyCns::CONTROLLER, 0);
        let (entry, page) = self.admin(command, None, PAGE).await?;
        self.expect_success(&command, &entry)?;
        let identify = IdentifyController::read_from_bytes(&page)
            .map_err(|_| Error::invalid("identify data of another size"))?;
        self.check(&identify)?;
        **self.identify.borrow_mut() = identify;
        self.read_write_cache().await;
        self.read_write_zeroes_max().await;
        self.configure_events().await;
        Ok(())
    }

    fn check(&self, identify: &IdentifyController) -> Result<()> {
        let address = self.transport.address();
        let (least, most) = identify.submission_entry_log2();
        if !(least..=most).contains(&6) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{address}: submission queue entries of 2^{least} to 2^{most} bytes, not 64"
                ),
            ));
        }
        let (least, most) = identify.completion_entry_log2();
        if !(least..=most).contains(&4) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{address}: completion queue entries of 2^{least} to 2^{most} bytes, not 16"
                ),
            ));
        }
        let known = self.identify.borrow();
        let is_first = known.sn == [0; 20] && known.mn == [0; 40];
        if !is_first && (known.sn != identify.sn || known.mn != identify.mn) {
            return Err(Error::new(
                ErrorKind::NoDevice,
                format!(
                    "{address}: another drive is there now (serial number {}, was {})",
                    identify.serial_number(),
                    known.serial_number()
                ),
            ));
        }
        Ok(())
    }

    /// Whether writes are cached: where there is a cache, whether it is on.
    async fn read_write_cache(&self) {
        let present = self.identify.borrow().volatile_write_cache();
        self.write_cache.set(present);
        if !present {
            return;
        }
        let command = commands::get_feature(FeatureId::VOLATILE_WRITE_CACHE);
        // When the device does not say, the cache counts as on.
        if let Ok((entry, _)) = self.admin(command, None, 0).await
            && entry.status().is_success()
        {
            self.write_cache.set(entry.dw0 & VOLATILE_WRITE_CACHE_ENABLED != 0);
        }
    }

    /// The limit of Write Zeroes (WZSL, NVM Command Set Specification, section 4.1.5.4): revision 2.0 has it.
    async fn read_write_zeroes_max(&self) {
        const WZSL: usize = 1;
        if self.properties.version < Version::new(2, 0, 0) {
            return;
        }
        let command = commands::identify(IdentifyCns::COMMAND_SET_CONTROLLER, 0);
        if let Ok((entry, page)) = self.admin(command, None, PAGE).await
            && entry.status().is_success()
            && let Some(&exponent) = page.get(WZSL)
            && exponent != 0
        {
            let bytes = self.properties.cap.page_size_min().checked_shl(exponent.into());
            self.write_zeroes_max.set(bytes.filter(|bytes| *bytes > 0));
        }
    }

    async fn configure_events(&self) {
        let identify = self.identify.borrow().clone();
        let mut wanted = AsyncEventConfiguration::SMART_WARNINGS;
        if identify.supports_namespace_notices() {
            wanted |= AsyncEventConfiguration::NAMESPACE_NOTICES;
        }
        if identify.supports_firmware_notices() {
            wanted |= AsyncEventConfiguration::FIRMWARE_NOTICES;
        }
        let command = commands::set_feature(FeatureId::ASYNC_EVENTS, wanted);
        match self.admin(command, None, 0).await {
            Ok((entry, _)) if entry.status().is_success() => {}
            Ok((entry, _)) => {
                debug!(status = %entry.status(), "asynchronous events stay as they are")
            }
            Err(error) => warn!(%error, "asynchronous events stay as they are"),
        }
        self.request_events();
    }

    /// Keeps requests for asynchronous events outstanding.
    pub(super) fn request_events(&self) {
        let limit = self.identify.borrow().async_event_limit().min(EVENTS);
        self.admin.request_events(limit as usize);
    }

    /// Negotiates the number of I/O queues: how many there are of each kind.
    async fn negotiate_queues(&self, wanted: u32) -> Result<u32> {
        let wanted = wanted.clamp(1, NumberOfQueues::MAX);
        let queues = NumberOfQueues { submission: wanted, completion: wanted };
        let command = commands::set_feature(FeatureId::NUMBER_OF_QUEUES, queues.encode());
        let (entry, _) = self.admin(command, None, 0).await?;
        self.expect_success(&command, &entry)?;
        let granted = NumberOfQueues::decode(entry.dw0);
        Ok(granted.submission.min(granted.completion).min(wanted))
    }

    /// Makes the queue pairs, in memory; the controller does not know of them yet.
    async fn make_pairs(&self) -> Result<()> {
        let reactors = self.reactors.as_ref().map_or(1, Reactors::len) as u32;
        let wanted = self.options.borrow().io_queues.unwrap_or(reactors).clamp(1, reactors);
        let granted = self.negotiate_queues(wanted).await?;
        if granted < reactors {
            warn!(
                controller = self.transport.address(),
                "{granted} I/O queues for {reactors} reactors: no more than {granted} reactors can use the drive"
            );
        }
        let cap = self.properties.cap;
        let largest = prev_power_of_two(cap.queue_entries_max());
        let size = self.options.borrow().io_queue_size.clamp(2, 1 << 15).next_power_of_two();
        let size = size.min(largest);
        let completion_size = (2 * size).min(largest);
        let identify = self.identify.borrow().clone();
        let scatter = scatter(&identify);
        let segments = if scatter == Scatter::Sgl { SGL_SEGMENTS } else { 0 };
        let stride = Lists::stride(transfer_max(&identify, cap), segments);
        let lists = LISTS_MAX.min(size as usize) * stride;
        let lengths = [SubmissionRing::bytes(size), CompletionRing::bytes(completion_size), lists];
        let count = granted as usize;
        let all = lengths.into_iter().cycle().take(count * lengths.len());
        let mut memory = queue_memory(&self.cx, &*self.transport, all).await?;
        let ticks =
            |index| Tsc::ticks(std::time::Duration::from_millis(identify.retry_delay_ms(index)));
        let retry = RetryPolicy {
            count: self.options.borrow().retries,
            delays: [ticks(1), ticks(2), ticks(3)],
        };
        for index in 0..granted {
            let id = index as u16 + 1;
            let bell = |kind| bell(&self.transport, id, kind, cap);
            let link = Arc::downgrade(&self.link);
            self.link.add(QueuePair::new(Parts {
                id,
                submission: SubmissionRing::new(memory.cut(lengths[0])?, size),
                completion: CompletionRing::new(memory.cut(lengths[1])?, completion_size),
                submission_bell: bell(DoorbellKind::SubmissionTail)?,
                completion_bell: bell(DoorbellKind::CompletionHead)?,
                lists: Lists::new(memory.cut(lists)?, stride),
                scatter,
                regions: RegionTable::default(),
                retry,
                trouble: TroubleSender::new(move |trouble| {
                    if let Some(link) = link.upgrade() {
                        link.send(Event::Trouble(trouble));
                    }
                }),
            }));
        }
        self.memory.borrow_mut().push(memory);
        self.repeat_regions().await;
        Ok(())
    }

    /// Makes the controller know the queue pairs, which hold no commands now. Also after a reset.
    pub(super) async fn create_queues(&self) -> Result<()> {
        let rings = self
            .link
            .for_each(&self.cx, |pair| {
                let id = pair.id();
                let parts = pair.parts();
                let (submission, completion) = (&parts.submission, &parts.completion);
                (id, submission.size(), submission.iova(), completion.size(), completion.iova())
            })
            .await;
        let granted = self.negotiate_queues(rings.len() as u32).await?;
        if (granted as usize) < rings.len() {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{}: the controller grants {granted} I/O queues, {} are in use",
                    self.transport.address(),
                    rings.len()
                ),
            ));
        }
        for (id, submission_size, submission, completion_size, completion) in rings {
            for command in [
                commands::create_completion_queue(id, completion_size, completion),
                commands::create_submission_queue(id, submission_size, submission),
            ] {
                let (entry, _) = self.admin(command, None, 0).await?;
                self.expect_success(&command, &entry)?;
            }
        }
        self.configure_shadows().await
    }

    /// Shadow doorbells, where the controller offers them.
    async fn configure_shadows(&self) -> Result<()> {
        if !self.identify.borrow().supports_doorbell_buffer() {
            return Ok(());
        }
        if self.shadows.borrow().is_none() {
            let memory = &mut self.memory.borrow_mut()[0];
            let pages = (memory.cut(PAGE_SIZE)?, memory.cut(PAGE_SIZE)?);
            *self.shadows.borrow_mut() = Some(pages);
        }
        let Some((mut values, mut events)) = self.shadows.borrow().clone() else { return Ok(()) };
        values.clear();
        events.clear();
        let command = commands::doorbell_buffers(values.iova(), events.iova());
        let (entry, _) = self.admin(command, None, 0).await?;
        if !entry.status().is_success() {
            debug!(status = %entry.status(), "no shadow doorbells");
            return Ok(());
        }
        let stride = self.properties.cap.doorbell_stride_bytes();
        let each = move |pair: &mut QueuePair| {
            let id = pair.id();
            let shadow = |kind| {
                let offset = doorbell_offset(id, kind, stride)?.checked_sub(Register::DOORBELLS)?;
                Shadow::new(&values, &events, offset)
            };
            let (submission, completion) =
                (shadow(DoorbellKind::SubmissionTail), shadow(DoorbellKind::CompletionHead));
            let parts = pair.parts();
            parts.submission_bell.set_shadow(submission);
            parts.completion_bell.set_shadow(completion);
        };
        self.link.for_each(&self.cx, each).await;
        Ok(())
    }
}

/// A doorbell of queue `id`.
fn bell(
    transport: &Arc<dyn Transport>,
    id: u16,
    kind: DoorbellKind,
    cap: Capabilities,
) -> Result<Bell> {
    let offset = doorbell_offset(id, kind, cap.doorbell_stride_bytes())
        .ok_or_else(|| Error::invalid(format!("no doorbell of queue {id} is within 4 GiB")))?;
    Ok(Bell::new(Arc::clone(transport).doorbell(offset)?))
}

/// Memory for pieces of these lengths, mapped for the device. It is no region of the registry: no other device
/// has anything to do with it.
async fn queue_memory(
    cx: &Context,
    transport: &dyn Transport,
    lengths: impl IntoIterator<Item = usize>,
) -> Result<QueueMemory> {
    let bytes = QueueMemory::size_for(lengths);
    let options = RegionOptions {
        sharing: Sharing::Always,
        numa_node: transport.numa_node(),
        ..cx.pool().options().region()
    };
    let region = Region::allocate(bytes, options)?;
    let view = RegionView { id: RegionId::NONE, region: Arc::new(region) };
    let iova = transport.map(cx, &view).await?;
    Ok(QueueMemory::new(view, iova))
}

fn prev_power_of_two(number: u32) -> u32 {
    1 << number.max(1).ilog2()
}

const _: () = assert!(ADMIN_ENTRIES.is_power_of_two() && ADMIN_ENTRIES <= 4096);
