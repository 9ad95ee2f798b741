//! Device rules: their text for cgroup v1, their program for cgroup v2. Pure.
//!
//! The program reads the kernel's `struct bpf_cgroup_dev_ctx` (access and type in
//! one word, major, minor), tries rule after rule, and answers 1 or 0. A rule lets
//! pass what asks for no more than the rule's access: what v1 does.

use std::fmt;

use super::instruction::{
    AND, EXIT, Instruction, JUMP_UNEQUAL, MOVE, RESULT, SHIFT_RIGHT, copy, load, op,
};

/// Which devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `b`
    Block,
    /// `c`
    Char,
    /// `a`: both
    All,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Access = Access { read: true, write: true, mknod: true };
    /// Only making device nodes.
    pub const MKNOD: Access = Access { read: false, write: false, mknod: true };

    /// Whether nothing is allowed.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Access::default()
    }

    /// `BPF_DEVCG_ACC_*`.
    fn bits(self) -> i32 {
        i32::from(self.mknod) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// One line of a whitelist. Without a number: all numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct Rule {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

impl Rule {
    /// A rule for character devices.
    #[must_use]
    pub const fn char(major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
        Rule { kind: Kind::Char, major, minor, access }
    }

    /// Whether the rule lets this request pass; what the program decides.
    #[must_use]
    pub fn allows(&self, kind: Kind, major: u32, minor: u32, access: Access) -> bool {
        (self.kind == Kind::All || self.kind == kind)
            && self.major.is_none_or(|m| m == major)
            && self.minor.is_none_or(|m| m == minor)
            && access.bits() & !self.access.bits() == 0
    }
}

/// As `devices.allow` of cgroup v1 wants it: `c 1:3 rwm`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Block => 'b',
            Kind::Char => 'c',
            Kind::All => 'a',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        let access = self.access;
        for (has, letter) in [(access.read, 'r'), (access.write, 'w'), (access.mknod, 'm')] {
            if has {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program of a whitelist; an empty one refuses everything.
#[must_use]
pub fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(TYPE, 0),
        copy(ACCESS, TYPE),
        op(AND, TYPE, 0xffff),
        op(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        let block = rule_block(rule);
        let always = block.iter().all(|instruction| instruction.code != JUMP_UNEQUAL);
        program.extend(block);
        if always {
            // The kernel refuses programs with a part that is never reached.
            return program;
        }
    }
    program.extend([op(MOVE, RESULT, 0), op(EXIT, 0, 0)]);
    program
}

/// Answers 1 if the rule matches, else falls out at its end.
fn rule_block(rule: &Rule) -> Vec<Instruction> {
    let mut block = Vec::with_capacity(8);
    // 0 asks for nothing and passes: bits that the rule does not have must be 0.
    let not_allowed = !rule.access.bits() & 0xffff;
    if rule.access != Access::ALL {
        block.extend([copy(SCRATCH, ACCESS), op(AND, SCRATCH, not_allowed)]);
        block.push(op(JUMP_UNEQUAL, SCRATCH, 0));
    }
    let kind = match rule.kind {
        Kind::Block => Some(1),
        Kind::Char => Some(2),
        Kind::All => None,
    };
    block.extend(kind.map(|kind| op(JUMP_UNEQUAL, TYPE, kind)));
    // Numbers have 12 and 20 bits: the cast keeps them.
    block.extend(rule.major.map(|n| op(JUMP_UNEQUAL, MAJOR, n as i32)));
    block.extend(rule.minor.map(|n| op(JUMP_UNEQUAL, MINOR, n as i32)));
    block.extend([op(MOVE, RESULT, 1), op(EXIT, 0, 0)]);
    let length = block.len();
    for (index, instruction) in block.iter_mut().enumerate() {
        if instruction.code == JUMP_UNEQUAL {
            // A block has a dozen instructions at most.
            instruction.offset = (length - index - 1) as i16;
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::super::instruction::tests::execute;
    use super::*;

    fn access(bits: i32) -> Access {
        Access { mknod: bits & 1 != 0, read: bits & 2 != 0, write: bits & 4 != 0 }
    }

    #[test]
    fn rules_as_text() {
        let rows = [
            (Rule::char(Some(1), Some(3), Access::ALL), "c 1:3 rwm"),
            (Rule::char(None, None, Access::MKNOD), "c *:* m"),
            (
                Rule { kind: Kind::Block, major: Some(8), minor: None, access: access(6) },
                "b 8:* rw",
            ),
            (Rule { kind: Kind::All, major: None, minor: None, access: Access::ALL }, "a *:* rwm"),
        ];
        for (rule, wanted) in rows {
            assert_eq!(rule.to_string(), wanted);
        }
    }

    #[test]
    fn an_empty_whitelist_refuses() {
        let program = assemble(&[]);
        assert_eq!(execute(&program, &[2 << 16 | 2, 1, 3]), 0);
    }

    #[test]
    fn nothing_follows_a_rule_for_everything() {
        let everything = Rule { kind: Kind::All, major: None, minor: None, access: Access::ALL };
        let program = assemble(&[everything, Rule::char(None, None, Access::MKNOD)]);
        assert_eq!(program.len(), 8);
        assert_eq!(execute(&program, &[7 << 16 | 1, 8, 0]), 1);
    }

    /// Every list of up to two rules against every request, on few numbers.
    #[test]
    fn the_program_decides_as_the_rules_do() {
        let numbers = [None, Some(1), Some(255)];
        let mut rules = Vec::new();
        for kind in [Kind::Block, Kind::Char, Kind::All] {
            for major in numbers {
                for bits in 1..8 {
                    rules.push(Rule { kind, major, minor: None, access: access(bits) });
                    let minor = Some(3);
                    rules.push(Rule { kind, major, minor, access: access(bits) });
                }
            }
        }
        let mut requests = Vec::new();
        for (kind, code) in [(Kind::Block, 1u32), (Kind::Char, 2)] {
            for major in [1, 255, 0xfffff] {
                for minor in [0, 3] {
                    for bits in 0..8 {
                        requests.push((kind, code, major, minor, bits));
                    }
                }
            }
        }
        let mut allowed = 0;
        for (index, first) in rules.iter().enumerate() {
            let list = [*first, rules[(index * 7 + 3) % rules.len()]];
            let program = assemble(&list);
            for &(kind, code, major, minor, bits) in &requests {
                let wanted = list.iter().any(|r| r.allows(kind, major, minor, access(bits)));
                let answer = execute(&program, &[(bits as u32) << 16 | code, major, minor]);
                assert_eq!(answer == 1, wanted, "{list:?} {kind:?} {major}:{minor} {bits}");
                allowed += u32::from(wanted);
            }
        }
        assert!(allowed > 0);
    }
}
