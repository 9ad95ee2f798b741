//! System call rules to a classic BPF program. Pure.
//!
//! The program looks at the architecture, then finds the system call in a binary
//! tree of ranges with equal answers, then compares arguments where rules ask for
//! it. It is written backwards, from the answers to the entry, so that every jump
//! goes to something that is there already.

use std::collections::HashMap;

/// What the kernel does with a system call: `SECCOMP_RET_*` with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Action(pub u32);

impl Action {
    pub(crate) const ALLOW: Action = Action(0x7fff_0000);
    pub(crate) const KILL_PROCESS: Action = Action(0x8000_0000);
    pub(crate) const KILL_THREAD: Action = Action(0);
    pub(crate) const LOG: Action = Action(0x7ffc_0000);
    pub(crate) const TRAP: Action = Action(0x0003_0000);

    /// Fails the call with this errno.
    pub(crate) const fn errno(number: u16) -> Action {
        Action(0x0005_0000 | number as u32)
    }

    /// Asks the tracer.
    pub(crate) const fn trace(data: u16) -> Action {
        Action(0x7ff0_0000 | data as u32)
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// The argument's bits in the mask.
    Masked(u64),
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub argument: u8,
    pub compare: Compare,
    pub value: u64,
}

/// An answer if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub conditions: Vec<Condition>,
    pub action: Action,
}

/// The rules of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arch {
    /// `AUDIT_ARCH_*`.
    pub audit: u32,
    /// Sorted by number, each number once: its rules, in order. What no rule
    /// answers gets the default.
    pub calls: Vec<(u32, Vec<Rule>)>,
    /// System calls from here on are newer than the rules.
    pub newer: Option<(u32, Action)>,
    /// System calls from here on belong to a foreign ABI (x32).
    pub foreign: Option<(u32, Action)>,
}

/// Instructions of 8 bytes each, as the kernel reads them.
pub(crate) type Code = Vec<u64>;

/// The kernel's limit (`BPF_MAXINSNS`).
pub(crate) const LONGEST: usize = 4096;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// Furthest that a conditional jump is made to go: the kernel's limit is 255, and
/// up to two instructions may come in between.
const REACH: usize = 250;

const fn instruction(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    code as u64 | (yes as u64) << 16 | (no as u64) << 24 | (k as u64) << 32
}

/// The program for `archs`; every other architecture is killed.
pub(crate) fn assemble(archs: &[Arch], default: Action) -> Code {
    let mut writer = Writer::default();
    let mut entry = writer.answer(Action::KILL_PROCESS);
    for arch in archs {
        let calls = writer.calls(arch, default);
        entry = writer.branch(IF_EQUAL, arch.audit, calls, entry);
    }
    writer.fall_to(entry);
    writer.push(instruction(LOAD, 0, 0, ARCH));
    writer.backwards.reverse();
    writer.backwards
}

/// A place in the program: how many instructions are written from there to the end.
type Label = usize;

#[derive(Default)]
struct Writer {
    backwards: Code,
    answers: HashMap<Action, Label>,
}

impl Writer {
    fn push(&mut self, instruction: u64) -> Label {
        self.backwards.push(instruction);
        self.backwards.len()
    }

    fn distance(&self, to: Label) -> usize {
        self.backwards.len() - to
    }

    /// `to`, or a jump there that is close enough for a conditional jump.
    fn near(&mut self, to: Label) -> Label {
        match self.distance(to) {
            far if far > REACH => self.push(instruction(JUMP, 0, 0, far as u32)),
            _ => to,
        }
    }

    /// What is written next continues at `to`.
    fn fall_to(&mut self, to: Label) {
        match self.distance(to) {
            0 => {}
            far => {
                self.push(instruction(JUMP, 0, 0, far as u32));
            }
        }
    }

    fn answer(&mut self, action: Action) -> Label {
        match self.answers.get(&action) {
            Some(label) if self.distance(*label) <= REACH => *label,
            _ => {
                let label = self.push(instruction(RETURN, 0, 0, action.0));
                self.answers.insert(action, label);
                label
            }
        }
    }

    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        let (yes, no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(instruction(code, yes, no, k))
    }

    /// Loads a word, then goes on at `next`.
    fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_to(next);
        self.push(instruction(LOAD, 0, 0, offset))
    }

    /// Loads a word, keeps the bits in `mask`, then goes on at `next`.
    fn load_masked(&mut self, offset: u32, mask: u32, next: Label) -> Label {
        self.fall_to(next);
        self.push(instruction(AND, 0, 0, mask));
        self.push(instruction(LOAD, 0, 0, offset))
    }

    fn calls(&mut self, arch: &Arch, default: Action) -> Label {
        // Ranges of numbers with the same answer: the first number of each.
        let mut ranges: Vec<(u32, Label)> = Vec::new();
        let mut last = None;
        let mut add = |start: u32, key: Option<Action>, label: Label| {
            if key.is_none() || key != last {
                ranges.push((start, label));
                last = key;
            }
        };
        let mut next = 0;
        let end = arch.foreign.map_or(u32::MAX, |(number, _)| number);
        for (number, rules) in arch.calls.iter().filter(|(number, _)| *number < end) {
            if *number > next {
                let label = self.answer(default);
                add(next, Some(default), label);
            }
            let always = rules.first().filter(|rule| rule.conditions.is_empty());
            let label = self.rules(rules, default);
            add(*number, always.map(|rule| rule.action), label);
            next = number + 1;
        }
        let label = self.answer(default);
        add(next, Some(default), label);
        for (number, action) in [arch.newer, arch.foreign].into_iter().flatten() {
            let label = self.answer(action);
            add(number.max(next), Some(action), label);
        }
        let root = self.tree(&ranges);
        self.load(NUMBER, root)
    }

    fn tree(&mut self, ranges: &[(u32, Label)]) -> Label {
        match ranges {
            [] => unreachable!("there is always the default"),
            [(_, label)] => *label,
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high[0].0;
                let high = self.tree(high);
                let low = self.tree(low);
                self.branch(IF_GREATER_OR_EQUAL, start, high, low)
            }
        }
    }

    /// The first rule whose conditions hold answers; behind them the default.
    fn rules(&mut self, rules: &[Rule], default: Action) -> Label {
        let mut next = self.answer(default);
        for rule in rules.iter().rev() {
            let mut place = self.answer(rule.action);
            for condition in rule.conditions.iter().rev() {
                place = self.condition(condition, place, next);
            }
            next = place;
        }
        next
    }

    /// Compares 64 bits in two halves: first the high, then the low one.
    fn condition(&mut self, condition: &Condition, yes: Label, no: Label) -> Label {
        let offset = 16 + 8 * u32::from(condition.argument);
        let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
        let (yes, no, code) = match condition.compare {
            Compare::Masked(mask) => {
                let low = self.branch(IF_EQUAL, low, yes, no);
                let low = self.load_masked(offset, mask as u32, low);
                let high = self.branch(IF_EQUAL, high, low, no);
                return self.load_masked(offset + 4, (mask >> 32) as u32, high);
            }
            Compare::Equal => (yes, no, IF_EQUAL),
            Compare::NotEqual => (no, yes, IF_EQUAL),
            Compare::Greater => (yes, no, IF_GREATER),
            Compare::LessOrEqual => (no, yes, IF_GREATER),
            Compare::GreaterOrEqual => (yes, no, IF_GREATER_OR_EQUAL),
            Compare::Less => (no, yes, IF_GREATER_OR_EQUAL),
        };
        let low = self.branch(code, low, yes, no);
        let low = self.load(offset, low);
        let mut place = self.branch(IF_EQUAL, high, low, no);
        if code != IF_EQUAL {
            place = self.branch(IF_GREATER, high, yes, place);
        }
        self.load(offset + 4, place)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does.
    pub(crate) fn run(code: &[u64], audit: u32, number: u32, arguments: [u64; 6]) -> Action {
        let word = |offset: u32| match offset {
            NUMBER => number,
            ARCH => audit,
            other => {
                let argument = arguments[(other as usize - 16) / 8];
                if other % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let raw = code[at];
            let (yes, no, k) = ((raw >> 16) as u8, (raw >> 24) as u8, (raw >> 32) as u32);
            let jump = |taken: bool| usize::from(if taken { yes } else { no });
            at += 1;
            match raw as u16 {
                LOAD => accumulator = word(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += jump(accumulator == k),
                IF_GREATER => at += jump(accumulator > k),
                IF_GREATER_OR_EQUAL => at += jump(accumulator >= k),
                RETURN => return Action(k),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn holds(condition: &Condition, arguments: [u64; 6]) -> bool {
        let (is, value) = (arguments[usize::from(condition.argument)], condition.value);
        match condition.compare {
            Compare::Equal => is == value,
            Compare::NotEqual => is != value,
            Compare::Less => is < value,
            Compare::LessOrEqual => is <= value,
            Compare::Greater => is > value,
            Compare::GreaterOrEqual => is >= value,
            Compare::Masked(mask) => is & mask == value,
        }
    }

    /// What the rules say, without any program.
    fn expected(arch: &Arch, default: Action, number: u32, arguments: [u64; 6]) -> Action {
        let known = arch.calls.iter().find(|(known, _)| *known == number);
        let rule = known.and_then(|(_, rules)| {
            rules.iter().find(|rule| rule.conditions.iter().all(|c| holds(c, arguments)))
        });
        let tail = [arch.foreign, arch.newer].into_iter().flatten();
        let tail = tail.filter(|(start, _)| number >= *start).map(|(_, action)| action).next();
        match (known, rule) {
            (_, Some(rule)) => rule.action,
            (Some(_), None) => default,
            (None, None) => tail.unwrap_or(default),
        }
    }

    fn action() -> impl Strategy<Value = Action> {
        prop::sample::select(vec![Action::ALLOW, Action::errno(1), Action::LOG, Action::TRAP])
    }

    /// Values that share halves, so that comparisons reach the low one.
    fn value() -> impl Strategy<Value = u64> {
        let half = || prop::sample::select(vec![0u64, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
        (half(), half()).prop_map(|(high, low)| high << 32 | low)
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let compare = prop_oneof![
            Just(Compare::Equal),
            Just(Compare::NotEqual),
            Just(Compare::Less),
            Just(Compare::LessOrEqual),
            Just(Compare::Greater),
            Just(Compare::GreaterOrEqual),
            value().prop_map(Compare::Masked),
        ];
        (0u8..6, compare, value()).prop_map(|(argument, compare, value)| Condition {
            argument,
            compare,
            value,
        })
    }

    fn arch() -> impl Strategy<Value = Arch> {
        let rule = (prop::collection::vec(condition(), 0..3), action())
            .prop_map(|(conditions, action)| Rule { conditions, action });
        let rules = prop::collection::vec(rule, 1..4);
        prop::collection::btree_map(0u32..600, rules, 0..200).prop_map(|calls| Arch {
            audit: 7,
            calls: calls.into_iter().collect(),
            newer: Some((620, Action::errno(38))),
            foreign: Some((0x4000_0000, Action::KILL_THREAD)),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The program answers as the rules say, however long it gets.
        #[test]
        fn programs_mean_what_the_rules_say(
            arch in arch(),
            default in action(),
            arguments in prop::array::uniform6(value()),
        ) {
            let code = assemble(std::slice::from_ref(&arch), default);
            for number in (0..640).chain([0x3fff_ffff, 0x4000_0000, u32::MAX]) {
                let wanted = expected(&arch, default, number, arguments);
                prop_assert_eq!(run(&code, 7, number, arguments), wanted, "{}", number);
            }
            prop_assert_eq!(run(&code, 8, 0, arguments), Action::KILL_PROCESS);
        }
    }
}
