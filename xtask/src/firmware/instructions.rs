//! The little of machine code that the derivation of the stack needs: by how much a function lowers the stack pointer,
//! and whether it calls itself. Encodings: Armv7-M and Armv7-A/R architecture reference manuals, RISC-V unprivileged
//! specification.
//!
//! Every half-word is looked at, also constants between instructions: what is found is too much rather than too little.
//! Not found: a stack pointer lowered by a register (frames above 4 KB on Arm and 2 KB on RISC-V, buffers of variable
//! length), and lowered in a loop.

/// An encoding of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Thumb,
    Arm,
    RiscV,
}

impl Encoding {
    /// That of a target's code.
    pub(super) fn of(target: &str) -> Self {
        match target {
            _ if target.starts_with("thumb") => Self::Thumb,
            _ if target.starts_with("riscv") => Self::RiscV,
            _ => Self::Arm,
        }
    }

    /// Sum of all bytes by which instructions of `code` lower the stack pointer.
    pub(super) fn lowered(self, code: &[u8]) -> u64 {
        self.words(code).map(|(_, word)| u64::from(self.lowers(word))).sum()
    }

    /// Largest number of bytes that every instruction which lowers the stack pointer can say itself: above, RISC-V
    /// takes it from a register.
    pub(super) const fn immediate(self) -> u64 {
        match self {
            Self::RiscV => 2047,
            _ => u64::MAX,
        }
    }

    /// Whether an instruction calls the first byte of `code`. Assemblers resolve such a call: it leaves no relocation.
    pub(super) fn calls_itself(self, code: &[u8]) -> bool {
        let words: Vec<(i64, u32)> = self.words(code).collect();
        match self {
            Self::Thumb => words.iter().any(|&(at, word)| thumb_call(word).is_some_and(|by| at + 4 + by == 0)),
            // BL
            Self::Arm => words.iter().any(|&(at, word)| {
                word & 0x0f00_0000 == 0x0b00_0000 && at + 8 + i64::from((word << 8).cast_signed() >> 6) == 0
            }),
            // AUIPC ra and JALR ra, ra
            Self::RiscV => words.iter().zip(words.iter().skip(2)).any(|(&(at, first), &(_, second))| {
                let by = i64::from((first & !0xfff).cast_signed()) + i64::from(second.cast_signed() >> 20);
                first & 0xfff == 0x097 && second & 0x000f_ffff == 0x0000_80e7 && at + by == 0
            }),
        }
    }

    /// Offsets and words of 32 bits at each place where an instruction may begin; the half-word of a Thumb instruction
    /// that comes first in memory is the upper one.
    fn words(self, code: &[u8]) -> impl Iterator<Item = (i64, u32)> {
        let step = if self == Self::Arm { 4 } else { 2 };
        (0..code.len()).step_by(step).map(move |at| {
            let byte = |i: usize| code.get(at + i).copied().unwrap_or(0);
            let word = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
            (at as i64, if self == Self::Thumb { word.rotate_left(16) } else { word })
        })
    }

    /// By how many bytes an instruction lowers the stack pointer.
    fn lowers(self, word: u32) -> u32 {
        match self {
            Self::Thumb => match word >> 16 {
                // PUSH, SUB SP
                half if half & 0xfe00 == 0xb400 => 4 * (half & 0x1ff).count_ones(),
                half if half & 0xff80 == 0xb080 => 4 * (half & 0x7f),
                // STMDB SP!, STR [SP, #-n]!, STRD [SP, #-n]!, VPUSH
                0xe92d => 4 * (word & 0xffff).count_ones(),
                0xf84d if word & 0xf00 == 0xd00 => word & 0xff,
                0xe96d => 4 * (word & 0xff),
                half if half & 0xffbf == 0xed2d => 4 * (word & 0xff),
                // SUB.W and SUBW SP, SP, #n
                half if half & 0xfbff == 0xf1ad && word & 0x8f00 == 0x0d00 => thumb_constant(word),
                half if half & 0xfbff == 0xf2ad && word & 0x8f00 == 0x0d00 => thumb_bits(word),
                _ => 0,
            },
            // PUSH, STR [SP, #-n]!, SUB SP, VPUSH
            Self::Arm => match word {
                _ if word & 0x0fff_0000 == 0x092d_0000 => 4 * (word & 0xffff).count_ones(),
                _ if word & 0x0fff_0000 == 0x052d_0000 => word & 0xfff,
                _ if word & 0x0fff_f000 == 0x024d_d000 => (word & 0xff).rotate_right((word >> 7) & 30),
                _ if word & 0x0fbf_0e00 == 0x0d2d_0a00 => 4 * (word & 0xff),
                _ => 0,
            },
            Self::RiscV => {
                let bits = |from: u32, count: u32, to: u32| ((word >> from) & ((1 << count) - 1)) << to;
                let sign = 0u32.wrapping_sub(bits(12, 1, 0));
                let raised = match word {
                    // ADDI, C.ADDI, C.ADDI16SP
                    _ if word & 0x000f_ffff == 0x0001_0113 => word.cast_signed() >> 20,
                    _ if word & 0xef83 == 0x0101 => (sign << 5 | bits(2, 5, 0)).cast_signed(),
                    _ if word & 0xef83 == 0x6101 => {
                        (sign << 9 | bits(3, 2, 7) | bits(5, 1, 6) | bits(2, 1, 5) | bits(6, 1, 4)).cast_signed()
                    }
                    _ => 0,
                };
                raised.min(0).unsigned_abs()
            }
        }
    }
}

/// The twelve bits i:imm3:imm8 of a Thumb instruction.
const fn thumb_bits(word: u32) -> u32 {
    (word >> 26 & 1) << 11 | (word >> 12 & 7) << 8 | word & 0xff
}

/// The constant that they stand for.
const fn thumb_constant(word: u32) -> u32 {
    let (bits, byte) = (thumb_bits(word), word & 0xff);
    match bits >> 8 {
        0 => byte,
        1 => byte * 0x0001_0001,
        2 => byte * 0x0100_0100,
        3 => byte * 0x0101_0101,
        _ => (byte | 0x80).rotate_right(bits >> 7),
    }
}

/// How far a BL goes from the next instruction.
fn thumb_call(word: u32) -> Option<i64> {
    let bit = |at: u32| word >> at & 1;
    let (sign, j1, j2) = (bit(26), bit(13), bit(11));
    let high = (1 ^ j1 ^ sign) << 23 | (1 ^ j2 ^ sign) << 22 | (word >> 16 & 0x3ff) << 12 | (word & 0x7ff) << 1;
    (word & 0xf800_d000 == 0xf000_d000).then(|| i64::from(high) - i64::from(sign) * (1 << 24))
}

#[cfg(test)]
mod tests {
    use super::Encoding::{self, Arm, RiscV, Thumb};

    /// `code` in hexadecimal digits, in the order of memory.
    fn bytes(code: &str) -> Vec<u8> {
        let digits: String = code.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn stack_pointers_are_lowered() {
        // As `arm-none-eabi-as` and LLVM assemble the instructions that stand beside them.
        let cases: [(Encoding, &str, u64); 16] = [
            (Thumb, "f0b5", 20),         // push {r4-r7, lr}
            (Thumb, "2de9000f", 16),     // push.w {r8-r11}
            (Thumb, "4df804bd", 4),      // str r11, [sp, #-4]!
            (Thumb, "8cb0", 48),         // sub sp, #48
            (Thumb, "adf5647d", 912),    // sub.w sp, sp, #912
            (Thumb, "adf6a86d", 3752),   // subw sp, sp, #3752
            (Thumb, "2ded108b", 64),     // vpush {d8-d15}
            (Thumb, "0cb0 bde8f081", 0), // add sp, #48; pop.w {r4-r8, pc}
            (Arm, "f04f2de9", 36),       // push {r4-r11, lr}
            (Arm, "04e02de5", 4),        // str lr, [sp, #-4]!
            (Arm, "39de4de2", 912),      // sub sp, sp, #912
            (Arm, "108b2ded", 64),       // vpush {d8-d15}
            (RiscV, "0111", 32),         // addi sp, sp, -32
            (RiscV, "3971", 64),         // c.addi16sp sp, -64
            (RiscV, "130101c1", 1008),   // addi sp, sp, -1008
            (RiscV, "0561 13010103", 0), // addi sp, sp, 32; addi sp, sp, 48
        ];
        for (encoding, code, by) in cases {
            assert_eq!(encoding.lowered(&bytes(code)), by, "{encoding:?} {code}");
        }
        assert_eq!(Thumb.lowered(&bytes("f0b5 8cb0 f0")), 68);
    }

    #[test]
    fn calls_of_the_first_byte_are_found() {
        for (encoding, code) in [
            (Thumb, "00bf fff7fdff"),          // nop; bl .-2
            (Arm, "00f020e3 fdffffeb"),        // nop; bl .-4
            (RiscV, "0100 97000000 e780e0ff"), // nop; call .-2
        ] {
            assert!(encoding.calls_itself(&bytes(code)), "{encoding:?}");
            assert!(!encoding.calls_itself(&bytes(&format!("00000000{code}"))), "{encoding:?}");
        }
    }

    #[test]
    fn targets_have_encodings() {
        let of = ["thumbv7em-none-eabihf", "armv7r-none-eabihf", "riscv64gc-unknown-none-elf"].map(Encoding::of);
        assert_eq!(of, [Thumb, Arm, RiscV]);
    }
}
