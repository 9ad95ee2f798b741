//! The few eBPF instructions that our programs are made of. Pure.

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub(super) code: u8,
    /// Destination in the low half, source in the high half.
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// Loads 32 bits of the context.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const MOVE_REGISTER: u8 = 0xbf;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
/// From network order, of as many bits as the immediate says; the rest becomes 0.
pub(super) const FROM_NETWORK: u8 = 0xdc;
pub(super) const JUMP_UNEQUAL: u8 = 0x55;
pub(super) const JUMP_ABOVE: u8 = 0x25;
pub(super) const JUMP_BELOW: u8 = 0xa5;
pub(super) const EXIT: u8 = 0x95;

/// Register of the answer.
pub(super) const RESULT: u8 = 0;
/// Register that points to the context.
pub(super) const CONTEXT: u8 = 1;

pub(super) const fn op(code: u8, to: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: to, offset: 0, immediate }
}

pub(super) const fn jump(code: u8, register: u8, immediate: i32, offset: i16) -> Instruction {
    Instruction { code, registers: register, offset, immediate }
}

pub(super) const fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: MOVE_REGISTER, registers: from << 4 | to, offset: 0, immediate: 0 }
}

pub(super) const fn load(to: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: CONTEXT << 4 | to, offset, immediate: 0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel does with a program, on a context of words.
    pub(in super::super) fn execute(program: &[Instruction], context: &[u32]) -> u64 {
        let mut registers = [0u64; 11];
        let mut next = 0;
        loop {
            let i = program[next];
            next += 1;
            let (to, from) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            let immediate = i.immediate as u64;
            let jumps = match i.code {
                LOAD_WORD => {
                    registers[to] = u64::from(context[i.offset as usize / 4]);
                    false
                }
                MOVE => {
                    registers[to] = immediate;
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                AND => {
                    registers[to] &= immediate;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= i.immediate;
                    false
                }
                FROM_NETWORK => {
                    assert_eq!(i.immediate, 16);
                    registers[to] = u64::from(u16::from_be(registers[to] as u16));
                    false
                }
                JUMP_UNEQUAL => registers[to] != immediate,
                JUMP_ABOVE => registers[to] > immediate,
                JUMP_BELOW => registers[to] < immediate,
                EXIT => return registers[0],
                other => panic!("instruction {other:#x}"),
            };
            if jumps {
                next += i.offset as usize;
            }
        }
    }
}
