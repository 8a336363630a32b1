//! Set Features and Get Features (Base Specification, sections 5.15 and 5.27).

use super::state::Controller;
use crate::base::Status;
use crate::nvme::spec::{FeatureId, NumberOfQueues, SubmissionEntry, VOLATILE_WRITE_CACHE_ENABLED};

/// Select field of Get Features: supported capabilities.
const SELECT_CAPABILITIES: u32 = 3;

impl Controller {
    /// The current value of a feature: what was set since the last reset, or the default.
    pub(super) fn feature(&self, id: u8) -> u32 {
        self.features.get(&id).copied().unwrap_or_else(|| self.feature_default(id))
    }

    fn feature_default(&self, id: u8) -> u32 {
        match id {
            // Over: 343 K, 70 degrees Celsius.
            FeatureId::TEMPERATURE_THRESHOLD => 343,
            FeatureId::VOLATILE_WRITE_CACHE => VOLATILE_WRITE_CACHE_ENABLED,
            FeatureId::NUMBER_OF_QUEUES => self.granted_queues(),
            _ => 0,
        }
    }

    fn granted_queues(&self) -> u32 {
        let queues = u32::from(self.options.io_queues);
        NumberOfQueues { submission: queues, completion: queues }.encode()
    }

    pub(super) fn write_cache_enabled(&self) -> bool {
        self.options.volatile_write_cache
            && self.feature(FeatureId::VOLATILE_WRITE_CACHE) & VOLATILE_WRITE_CACHE_ENABLED != 0
    }

    fn has_feature(&self, id: u8) -> bool {
        match id {
            FeatureId::VOLATILE_WRITE_CACHE => self.options.volatile_write_cache,
            FeatureId::ARBITRATION
            | FeatureId::POWER_MANAGEMENT
            | FeatureId::TEMPERATURE_THRESHOLD
            | FeatureId::ERROR_RECOVERY
            | FeatureId::NUMBER_OF_QUEUES
            | FeatureId::INTERRUPT_COALESCING
            | FeatureId::WRITE_ATOMICITY
            | FeatureId::ASYNC_EVENTS => true,
            _ => false,
        }
    }

    pub(super) fn set_features(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let id = entry.cdw10 as u8;
        if !self.has_feature(id) {
            return Err(Status::INVALID_FIELD);
        }
        // Save (SV).
        if entry.cdw10 & 1 << 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        match id {
            FeatureId::NUMBER_OF_QUEUES => {
                if self.submission.iter().skip(1).any(Option::is_some)
                    || self.completion.iter().skip(1).any(Option::is_some)
                {
                    return Err(Status::COMMAND_SEQUENCE_ERROR);
                }
                if entry.cdw11 & 0xffff == 0xffff || entry.cdw11 >> 16 == 0xffff {
                    return Err(Status::INVALID_FIELD);
                }
                return Ok(self.granted_queues());
            }
            FeatureId::VOLATILE_WRITE_CACHE if entry.cdw11 & VOLATILE_WRITE_CACHE_ENABLED == 0 => {
                // What is in the cache must not stay there for ever.
                for namespace in self.namespaces.values_mut() {
                    namespace.store.flush();
                }
            }
            _ => {}
        }
        self.features.insert(id, entry.cdw11);
        Ok(0)
    }

    pub(super) fn get_features(&mut self, entry: &SubmissionEntry) -> Result<u32, Status> {
        let id = entry.cdw10 as u8;
        if !self.has_feature(id) {
            return Err(Status::INVALID_FIELD);
        }
        match entry.cdw10 >> 8 & 0b111 {
            0 => Ok(self.feature(id)),
            1 | 2 => Ok(self.feature_default(id)),
            // Changeable (bit 2), not saveable.
            SELECT_CAPABILITIES => Ok(1 << 2),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}
