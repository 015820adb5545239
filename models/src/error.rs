//! What can be wrong with a foreign configuration or a stored [`crate::Spec`].

/// A configuration that cannot be turned into a runnable model: one line that names the field, the value and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Error {
    /// An error from a message.
    pub fn new(message: impl std::fmt::Display) -> Self {
        Error(message.to_string())
    }
}

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;
