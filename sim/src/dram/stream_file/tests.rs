use std::io::Write;

use cptr_hw_model::dram::{MappingKind, presets};
use proptest::prelude::*;

use super::*;

fn read(text: impl AsRef<[u8]>) -> Result<Vec<Request>> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_ref()).unwrap();
    let device = presets::ddr4_3200();
    let map = AddressMap::new(MappingKind::RoBaRaCoCh, &device).unwrap();
    Requests::open(file.path(), map, &device, false)?.collect()
}

fn refusal(text: impl AsRef<[u8]>) -> String {
    let sentence = read(text).unwrap_err().to_string();
    sentence.split_once(": ").unwrap().1.into()
}

#[test]
fn the_formats_of_simulators() {
    let wanted = vec![Request::read(0), Request::read(0x1f40), Request::read(0xc0)];
    for text in [
        "0\n1f40\nc0\n",
        "LD 0x0\nLD 0x1f40\nLD 0xc0",
        "0x0 READ 0\r\n0x1F40 READ 0\r\n0XC0 READ 0\r\n",
        "# decimal\n0 r\n\n8000 R # here\n192",
    ] {
        assert_eq!(read(text).unwrap(), wanted, "{text}");
    }
    assert_eq!(read("ST 64").unwrap(), [Request::write(64)]);
    assert_eq!(read("64 WRITE 100").unwrap(), [Request { not_before: 100, ..Request::write(64) }]);
    assert_eq!(read("128 7").unwrap(), [Request { not_before: 7, ..Request::read(128) }]);
    assert_eq!(read("").unwrap(), []);
}

#[test]
fn bad_lines_are_refused_with_their_number() {
    assert_eq!(refusal("0\n\n0x41"), "line 3: address 0x41 is not a multiple of the 64 bytes of one access");
    assert_eq!(
        refusal("0\n40\n"),
        "line 2: address 0x28 is not a multiple of the 64 bytes of one access (read as decimal; hexadecimal addresses begin with 0x)"
    );
    assert_eq!(refusal("0x200000000"), "line 1: address 0x200000000 lies outside the memory of 0x200000000 bytes");
    for (text, expected) in [
        ("hello", "line 1: expected an address and R or W"),
        ("R", "expected an address"),
        ("-64", "expected an address"),
        ("+64", "expected an address"),
        ("0x", "expected an address"),
        ("0x1ffffffffffffffff", "expected an address"),
        ("64 X", "expected R or W, or a cycle from 0 to 1000000000000, after the address, found \"64 X\""),
        ("64 R 1000000000001", "a cycle from 0 to"),
        ("64 R 0 0", "expected nothing after the cycle"),
        ("R 64 W", "a cycle from 0 to"),
    ] {
        let sentence = refusal(text);
        assert!(sentence.contains(expected), "{text}: {sentence}");
    }
    assert_eq!(refusal(b"64\n\xff\xfe"), "line 2: expected text, found bytes that are not UTF-8");
    assert_eq!(refusal(vec![b'0'; 1 << 20]), "line 1: expected at most 256 bytes, found a longer line");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[ 0-9a-fxRW#\n]{0,200}") {
        for input in [bytes, text.into_bytes()] {
            if let Ok(requests) = read(&input) {
                prop_assert!(requests.iter().all(|request| request.address % 64 == 0));
            }
        }
    }
}

fn at(request: Request, not_before: u64) -> Request {
    Request { not_before, ..request }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn binary(kind: u64, words: &[u64]) -> Vec<u8> {
    [&binary::MARK[..], &kind.to_le_bytes()]
        .concat()
        .into_iter()
        .chain(words.iter().flat_map(|w| w.to_le_bytes()))
        .collect()
}

#[test]
fn columns_are_found_by_their_names() {
    let wanted = [at(Request::read(64), 7), at(Request::write(128), 9)];
    for text in [
        "cycle,op,address\n7,R,64\n9,W,128\n",
        "# made by hand\nTick, Cmd, Size, Addr, PC\n4999,read,64,0x40,0x400\n5625,WRITE,1,0x80,0x404",
        "address,type,cycle,size\r\n64,LD,7,0\r\n\r\n128,ST,9,64\r\n",
    ] {
        assert_eq!(read(text).unwrap(), wanted, "{text}");
    }
    assert_eq!(read("address\n0x40\n0xc0\n").unwrap(), [Request::read(64), Request::read(192)]);
}

#[test]
fn packets_of_gem5() {
    let wanted = vec![at(Request::read(64), 8), at(Request::write(128), 16)];
    assert_eq!(read("r,64,64,5000\nw,128,64,10000\n").unwrap(), wanted);
    assert_eq!(read("r,64,64,0,5000\nw,128,64,0,10000,4198400\n").unwrap(), wanted);
    // Of any size, from any byte: all accesses that it touches.
    let wanted = [64, 128, 192].map(|address| at(Request::read(address), 8));
    assert_eq!(read("r,100,100,5000\n").unwrap(), wanted);
    assert!(refusal("u,64,64,0").starts_with("line 1: expected channel 0, rank, bank group"));
    assert!(refusal("r,64,64,0\nx,64,64,0").starts_with("line 2: expected R or W in its column"));
    assert!(refusal("r,64,64,-1").contains("a tick from 0 to"));
    assert!(refusal("r,64,1048577,0").contains("a size from 0 to 1048576"));
    assert!(refusal("r,64").contains("in its column"));
    assert!(refusal("address\n64\n,\n").starts_with("line 3: expected an address in its column"));
    assert!(refusal(format!("address\n{}", "1,".repeat(40))).contains("at most 32 columns"));
    // The second access of a request lies outside.
    let last = (8u64 << 30) - 64;
    assert!(refusal(format!("r,{last},65,0")).contains("lies outside"));
}

#[test]
fn vectors_of_ramulator() {
    let device = presets::ddr4_3200();
    let map = AddressMap::new(MappingKind::RoBaRaCoCh, &device).unwrap();
    let requests = read("R 0,0,3,1,4097,12\nW 0,0,0,0,0,0\n").unwrap();
    let found = map.decode(requests[0].address);
    assert_eq!((found.bank, found.row, found.column), (3 << 2 | 1, 4097, 12));
    assert_eq!(requests[1], Request::write(0));
    for bad in [
        "R 0,0,4,0,0,0",
        "R 1,0,0,0,0,0",
        "R 0,0,0,0,0",
        "R 0,0,0,0,65536,0",
        "R 0,0,0,0,0,128",
        "R 0,0,0,0,0,x",
        "R 0,0,0,0,0,0,0,0,0,0",
    ] {
        assert!(refusal(bad).contains("expected channel 0, rank, bank group"), "{bad}");
    }
}

#[test]
fn binary_traces() {
    let words = [0, 64, 1 << 63 | 128];
    let wanted = [Request::read(0), Request::read(64), Request::write(128)];
    assert_eq!(read(binary(0, &words)).unwrap(), wanted);
    assert_eq!(read(binary(1, &[64, 7, 1 << 63, 9])).unwrap(), [at(Request::read(64), 7), at(Request::write(0), 9)]);
    // Longer than a block, and not in whole words of one.
    let many: Vec<u64> = (0..20_000).map(|line| line * 64).collect();
    assert_eq!(read(binary(0, &many)).unwrap().len(), many.len());
    assert_eq!(read(binary(0, &[])).unwrap(), []);
    for (bytes, expected) in [
        (binary(2, &[]), "expected a binary trace of kind 0 or 1, found kind 2"),
        (binary::MARK.to_vec(), "expected 16 bytes before the requests"),
        (binary(0, &words)[..36].to_vec(), "request 3: expected whole words of eight bytes"),
        (binary(1, &[64]), "request 1: expected whole words of eight bytes"),
        (binary(1, &[64, u64::MAX]), "request 1: expected a cycle from 0 to"),
        (binary(0, &[64, 65]), "request 2: address 0x41 is not a multiple"),
        (binary(0, &[u64::MAX]), "request 1: address 0x7fffffffffffffff is not a multiple"),
    ] {
        let sentence = refusal(&bytes);
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn compressed_with_gzip() {
    let text: String = (0..30_000).map(|line| format!("{:#x} R\n", line * 64)).collect();
    let wanted = read(&text).unwrap();
    let compressed = gzip(text.as_bytes());
    assert_eq!(read(&compressed).unwrap(), wanted);
    assert_eq!(read(gzip(&binary(0, &[64]))).unwrap(), [Request::read(64)]);
    assert!(read(&compressed[..compressed.len() / 2]).is_err());
    assert!(read(b"\x1f\x8bnothing").is_err());
}
