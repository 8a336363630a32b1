//! Linearizability of one block's register, kept as the set of all explanations that are left.
//!
//! An explanation is (the value now, the writes that have taken effect). Writes have unique values
//! 1, 2, 3; 0 is the initial value. A history is linearizable as long as one explanation is left:
//! this is the search of Wing and Gong, done step by step, with all branches in one word.

/// The explanations that are left: bit `value * 8 + effective`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct History {
    explanations: u32,
    invoked: u8,
}

impl History {
    /// Before any write: the value is 0.
    pub fn new() -> Self {
        Self { explanations: 1, invoked: 0 }
    }

    /// The write of `value` begins; it may take effect from now on.
    pub fn invoke(&mut self, value: u8) {
        self.invoked |= 1 << (value - 1);
        self.close();
    }

    /// The write of `value` is acknowledged: it has taken effect.
    pub fn acknowledge(&mut self, value: u8) {
        self.retain(|_, effective| effective & (1 << (value - 1)) != 0);
    }

    /// A read returned `value`.
    pub fn read(&mut self, value: u8) {
        self.retain(|now, _| now == value);
        self.close();
    }

    /// Whether a read could return `value` now.
    pub fn allows(self, value: u8) -> bool {
        (self.explanations >> (value * 8)) & 0xff != 0
    }

    /// Whether some order of the operations explains all answers so far.
    pub fn linearizable(self) -> bool {
        self.explanations != 0
    }

    fn retain(&mut self, keep: impl Fn(u8, u8) -> bool) {
        for value in 0..4 {
            for effective in 0..8 {
                if !keep(value, effective) {
                    self.explanations &= !(1 << (value * 8 + effective));
                }
            }
        }
    }

    /// Adds what follows when any invoked write takes effect now.
    fn close(&mut self) {
        // A write only adds to `effective`, so one pass in its order reaches everything.
        for effective in 0..8u8 {
            for value in 0..4u8 {
                if self.explanations >> (value * 8 + effective) & 1 == 0 {
                    continue;
                }
                for write in 0..3u8 {
                    let bit = 1 << write;
                    if self.invoked & bit != 0 && effective & bit == 0 {
                        self.explanations |= 1 << ((write + 1) * 8 + (effective | bit));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_overwritten_cannot_come_back() {
        let mut history = History::new();
        history.invoke(1);
        assert!(history.allows(0) && history.allows(1));
        history.acknowledge(1);
        assert!(!history.allows(0));
        history.invoke(2);
        history.read(2);
        assert!(!history.allows(1));
        history.read(1);
        assert!(!history.linearizable());
    }

    #[test]
    fn a_write_without_an_answer_may_take_effect_late_but_once() {
        let mut history = History::new();
        history.invoke(1);
        history.invoke(2);
        history.acknowledge(2);
        history.read(2);
        assert!(history.allows(1), "the first write may still take effect");
        history.read(1);
        history.read(1);
        assert!(history.linearizable());
        assert!(!history.allows(2), "the second one had its turn");
    }
}
