//! Where the answer to a request goes: alone, or together with the others of its batch.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::message::Answer;

/// The answers of a batch, in the order of its requests.
pub(super) struct Batch {
    left: Cell<usize>,
    answers: RefCell<Vec<Option<Answer>>>,
}

impl Batch {
    pub(super) fn new(requests: usize) -> Rc<Batch> {
        let answers = RefCell::new((0..requests).map(|_| None).collect());
        Rc::new(Batch { left: Cell::new(requests), answers })
    }

    /// Takes what came of request `index` (`None` for a notification), and gives all answers once
    /// the last has come.
    fn complete(&self, index: usize, answer: Option<Answer>) -> Option<Vec<Answer>> {
        self.answers.borrow_mut()[index] = answer;
        self.left.set(self.left.get() - 1);
        (self.left.get() == 0).then(|| self.answers.take().into_iter().flatten().collect())
    }
}

/// Where one answer goes.
#[derive(Clone)]
pub(super) enum Target {
    Single,
    Batch(Rc<Batch>, usize),
}

impl Target {
    /// The text to send now that this request is done, if there is any.
    pub(super) fn complete(&self, answer: Option<Answer>) -> Option<Vec<u8>> {
        let text = match self {
            Target::Single => serde_json::to_vec(&answer?),
            Target::Batch(batch, index) => {
                let answers = batch.complete(*index, answer)?;
                if answers.is_empty() {
                    return None;
                }
                serde_json::to_vec(&answers)
            }
        };
        // An answer is made of JSON values: writing it into memory cannot fail.
        let mut text = text.expect("JSON values have a text");
        text.push(b'\n');
        Some(text)
    }
}
