//! The program that decides which ports may be bound. Pure.
//!
//! The kernel runs it in `bind()`, for IPv4 and IPv6, with `struct bpf_sock_addr`
//! as context; 0 refuses with `EPERM`. A port of 0 asks for any port: whether that
//! is allowed is up to the ranges like everything else.

use super::instruction::{
    EXIT, FROM_NETWORK, Instruction, JUMP_ABOVE, JUMP_BELOW, MOVE, RESULT, jump, load, op,
};

/// Offset of `user_port` in the context: 16 bits in network order, in a word.
const USER_PORT: i16 = 24;
const PORT: u8 = 2;
const REFUSE: [Instruction; 2] = [op(MOVE, RESULT, 0), op(EXIT, 0, 0)];
const ALLOW: [Instruction; 2] = [op(MOVE, RESULT, 1), op(EXIT, 0, 0)];

/// The program that refuses the ports in `refused`, ranges with both ends, in
/// ascending order and apart; it allows all others.
#[must_use]
pub fn assemble(refused: &[(u16, u16)]) -> Vec<Instruction> {
    let mut program = vec![load(PORT, USER_PORT), op(FROM_NETWORK, PORT, 16)];
    for &(first, last) in refused {
        // Above it: on to the next range. Below: in the gap before it.
        program.push(jump(JUMP_ABOVE, PORT, i32::from(last), 5));
        program.push(jump(JUMP_BELOW, PORT, i32::from(first), 2));
        program.extend(REFUSE);
        program.extend(ALLOW);
    }
    program.extend(ALLOW);
    program
}

#[cfg(test)]
mod tests {
    use super::super::instruction::tests::execute;
    use super::*;

    #[test]
    fn every_port_is_decided_as_the_ranges_say() {
        let lists: [&[(u16, u16)]; 5] = [
            &[],
            &[(0, 65535)],
            &[(1, 1023), (31005, 65535)],
            &[(80, 80), (82, 82), (1000, 2000)],
            &[(1, 30999), (31001, 32767), (61000, 65535)],
        ];
        for refused in lists {
            let program = assemble(refused);
            for port in 0..=u16::MAX {
                let mut context = [0; 10];
                context[6] = u32::from(port.to_be());
                let wanted = !refused.iter().any(|(first, last)| (*first..=*last).contains(&port));
                assert_eq!(execute(&program, &context) == 1, wanted, "{refused:?} {port}");
            }
        }
    }
}
