//! What is a block? Content that was found true; it cannot be made anywhere but in `store`.

use std::ops::Deref;
use std::sync::Arc;

/// The content of a block, verified and expanded; shared and immutable.
#[derive(Debug, Clone)]
pub struct Block(Arc<[u8]>);

impl Block {
    pub(super) fn new(content: Arc<[u8]>) -> Self {
        Block(content)
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
