//! The built-in model: its weight file, as part of the program. `models/pocket` says what it knows and how it was made.

/// What it is called where the name of a file is asked for.
pub const NAME: &str = "pocket";

/// Begins on a boundary of pages, as a mapped file does.
#[repr(C, align(4096))]
struct Pages<B: ?Sized>(B);

static PAGES: &Pages<[u8]> = &Pages(*include_bytes!("../pocket/pocket.quern"));

/// The bytes of the weight file; they begin at a multiple of 4096 and are never copied.
pub fn file() -> &'static [u8] {
    &PAGES.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_begins_on_a_page() {
        assert_eq!(super::file().as_ptr().addr() % 4096, 0);
        assert!(
            super::file().len() <= 8_000_000,
            "small enough to be built in"
        );
    }
}
