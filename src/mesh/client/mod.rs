//! The client's side of an attached volume.

mod effect;
mod view;

mod machine;

pub use effect::Effect;
pub use machine::Client;
pub use view::View;
