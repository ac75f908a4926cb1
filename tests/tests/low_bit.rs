//! The low-bit experts compute here what they computed where the golden hashes were made.
#![forbid(unsafe_code)]

#[path = "../golden/low_bit.rs"]
mod golden;

#[test]
fn hashes_are_those_of_every_machine() {
    let found = golden::hashes(&mut golden::Memory::new()).expect("the shapes fit");
    for ((format, found), expected) in golden::FORMATS.iter().zip(found).zip(golden::EXPECTED) {
        assert_eq!(
            found,
            expected,
            "bits and group {format:?}: all hashes {:#x?}",
            golden::hashes(&mut golden::Memory::new())
        );
    }
}

#[test]
fn memory_is_what_it_says() {
    assert!(size_of::<golden::Memory>() <= 4 << 10, "{}", size_of::<golden::Memory>());
}
