//! Rows for the forms and rules, and the algebra against a naive oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::json::from_json;
use crate::offer::Operation;

fn res(text: &str) -> Resources {
    Resources::parse(text, "*").unwrap()
}

fn proto(json: &str) -> Resource {
    from_json(json.as_bytes()).unwrap()
}

fn item(json: &str) -> Item {
    Item::new(&proto(json)).unwrap()
}

const VOLUME: &str = r#"{"name":"disk","type":"SCALAR","scalar":{"value":10},
    "reservations":[{"type":"DYNAMIC","role":"web","principal":"p"}],
    "disk":{"persistence":{"id":"v1","principal":"p"},
            "volume":{"container_path":"data","mode":"RW"}}}"#;

#[test]
fn text_form() {
    let text = "cpus:24;mem:24576;disk:409600;ports:[21000-24000,30000-34000];\
                bugs(debug_role):{a,b,c}";
    let all = res(text);
    assert_eq!(
        all.to_string(),
        "cpus:24; mem:24576; disk:409600; ports:[21000-24000, 30000-34000]; \
         bugs(reservations: [(STATIC,debug_role)]):{a, b, c}"
    );
    assert_eq!(all.ports().unwrap().count(), 7002);
    assert_eq!(Resources::parse("cpus:1", "ops").unwrap().reserved_to("ops").cpus(), Some(1.0));
    assert_eq!(res("ports:[5-6, 1-4]").to_string(), "ports:[1-6]");
    assert_eq!(res("").to_string(), "{}");
    assert_eq!(res("cpus:0;mem:1").to_string(), "mem:1");
    assert_eq!(res("cpus : 1.5").cpus(), Some(1.5));
}

#[test]
fn text_errors_name_the_input() {
    for (text, message) in [
        ("cpus", "Bad value for resources, missing or extra ':' in 'cpus'"),
        ("cpus:1:2", "Bad value for resources, missing or extra ':' in 'cpus:1:2'"),
        ("cpus)a(:1", "Bad value for resources, mismatched parentheses in 'cpus)a(:1'"),
        ("cpus:abc", "Bad type for resource cpus value abc type TEXT"),
        (
            "cpus:-1",
            "Failed to parse resource cpus value -1 error Negative values not supported: '-1'",
        ),
        (
            "cpus:1e999",
            "Failed to parse resource cpus value 1e999 error Unsupported floating point value \
             '1e999'",
        ),
        (
            "mem:1e300",
            "Resource 'mem:9000000000000' is invalid: Invalid scalar resource: value is too large \
             (at most 9000000000000)",
        ),
        (
            "ports:[1-]",
            "Failed to parse resource ports value [1-] error Expecting one or more \"ranges\"",
        ),
        (
            "ports:[9-1]",
            "Failed to parse resource ports value [9-1] error Expecting non-negative integers in \
             '9-1'",
        ),
        ("x:{a", "Failed to parse resource x value {a error Mismatched brackets"),
        (
            "cpus:1;cpus:{a}",
            "Resources with the same name ('cpus') but different types are not allowed",
        ),
        (":1", "Bad value for resources, missing or extra ':' in ':1'"),
        (
            "cpus(*/a):1",
            "Resource 'cpus(reservations: [(STATIC,*/a)]):1' is invalid: Role '*/a' cannot \
             include '*' as a component",
        ),
    ] {
        assert_eq!(Resources::parse(text, "*").unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn json_form() {
    let text = r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":4}},
        {"name":"disk","type":"SCALAR","scalar":{"value":10},"role":"web",
         "disk":{"source":{"type":"PATH","path":{"root":"/mnt"}}}}]"#;
    assert_eq!(res(text).to_string(), "cpus:4; disk(reservations: [(STATIC,web)])[PATH:/mnt]:10");
    assert_eq!(Resources::parse(text, "ops").unwrap().reserved_to("ops").cpus(), Some(4.0));
    for (text, part) in [
        ("[{", "Some JSON resources were not formatted properly"),
        (r#"[{"name":"cpus"}]"#, "type"),
        (r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}]"#, "value <= 0"),
        (r#"[{"name":"cpus","type":"SCALAR"}]"#, "Invalid scalar resource"),
        (&format!("[{VOLUME}]"), "Persistent volumes cannot"),
        (
            r#"[{"name":"cpus","type":"SCALAR","scalar":{"value":1},"revocable":{}}]"#,
            "Revocable resources cannot",
        ),
    ] {
        let error = Resources::parse(text, "*").unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn scalars_count_thousandths() {
    let mut sum = Resources::new();
    for _ in 0..10 {
        sum += res("cpus:0.1");
    }
    assert_eq!(sum, res("cpus:1"));
    assert_eq!(sum.to_protos()[0].scalar.unwrap().value, 1.0);
    assert_eq!(Scalar::new(0.0015).unwrap().millis(), 2);
    assert_eq!(Scalar::new(f64::NAN), None);
    assert_eq!(Scalar::from_millis(-1500).to_string(), "-1.5");
    assert!((&res("cpus:1") - &res("cpus:2")).is_empty());
}

#[test]
#[allow(deprecated)]
fn formats_of_reservations() {
    let old = r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"web",
                  "reservation":{"principal":"p"}}"#;
    let mut upgraded = [proto(old)];
    upgrade_all(&mut upgraded);
    assert_eq!(
        Resources::from_valid(&upgraded).to_string(),
        "cpus(reservations: [(DYNAMIC,web,p)]):1"
    );
    let mut back = upgraded.clone();
    convert(&mut back, Format::Pre).unwrap();
    assert_eq!(back, [proto(old)]);
    convert(&mut back, Format::Endpoint).unwrap();
    assert_eq!((back[0].role(), back[0].reservations.len()), ("web", 1));
    let plain = res("cpus:1").to_protos_in(Format::Endpoint).unwrap();
    assert_eq!(plain[0].role.as_deref(), Some("*"));

    let refined = res("cpus(a):1")
        .push_reservation(&ReservationInfo {
            r#type: Some(2),
            role: Some("a/b".into()),
            ..Default::default()
        })
        .unwrap();
    assert_eq!(refined.to_protos_in(Format::Pre), Err(CannotDowngrade));
    assert!(refined.reserved_to("a/b").allocatable_to("a/b/c").has("cpus"));
    assert!(refined.allocatable_to("a").is_empty());
    assert_eq!(refined.pop_reservation(), res("cpus(a):1"));
    assert_eq!(refined.to_unreserved(), res("cpus:1"));
    assert!(
        refined
            .push_reservation(&ReservationInfo {
                r#type: Some(2),
                role: Some("c".into()),
                ..Default::default()
            })
            .unwrap_err()
            .to_string()
            .contains("'c' is not a refinement of 'a/b'")
    );
}

#[test]
fn volumes_are_indivisible() {
    let volume = item(VOLUME);
    let mut other = proto(VOLUME);
    other.disk.as_mut().unwrap().persistence.as_mut().unwrap().id = "v2".into();
    let two: Resources = [volume.clone(), Item::new(&other).unwrap()].into_iter().collect();
    assert_eq!(two.len(), 2);
    let mut half = proto(VOLUME);
    half.scalar.as_mut().unwrap().value = 5.0;
    assert!(!two.contains_proto(&half));
    assert!(two.contains_item(&volume));
    assert_eq!((&two - &Resources::from(volume.clone())).len(), 1);
    // One volume does not serve twice.
    let twice: Resources = [volume.clone(), volume.clone()].into_iter().collect();
    assert_eq!(twice.len(), 2);
    assert!(!two.contains(&twice));
    assert_eq!(volume.to_string(), "disk(reservations: [(DYNAMIC,web,p)])[v1:data]:10");
    assert_eq!(two.without_volumes().to_string(), "disk(reservations: [(DYNAMIC,web,p)]):20");
}

#[test]
fn shared_volumes_count_copies() {
    let mut shared = proto(VOLUME);
    shared.shared = Some(Default::default());
    let one = Resources::from(Item::new(&shared).unwrap());
    let two = &one + &one;
    assert_eq!((two.len(), two.iter().next().unwrap().copies()), (1, 2));
    assert!(two.contains(&one) && !one.contains(&two));
    assert_eq!(&two - &one, one);
    assert!((&one - &two).is_empty());
    assert_eq!(two.disk(), Some(10.0));
}

#[test]
fn allocation_roles_separate() {
    let web: Arc<str> = "web".into();
    let free = res("cpus:4;mem:10");
    let offered = res("cpus:1").allocated(&web);
    assert!(!free.contains(&offered));
    assert!(free.contains(&offered.clone().unallocated()));
    assert_eq!(offered.to_string(), "cpus(allocated: web):1");
    let mixed = &free + &offered;
    assert_eq!(mixed.allocations()[&web], offered);
    assert_eq!(mixed.unallocated(), res("cpus:5;mem:10"));
}

#[test]
fn quantities() {
    let q = Quantities::parse("mem:32;cpus:0.01").unwrap();
    assert_eq!(q.to_string(), "cpus:0.01; mem:32");
    assert!(res("cpus:1;mem:64").contains_quantities(&q));
    assert!(!res("cpus:1").contains_quantities(&q));
    assert!(res("ports:[1-10]").contains_quantities(&Quantities::parse("ports:10").unwrap()));
    for bad in ["cpus", "cpus:{a}", "cpus:1e300"] {
        assert!(Quantities::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        res("cpus:4;mem:100;disk:5").shrunk(&Quantities::parse("cpus:1.5;mem:200").unwrap()),
        res("cpus:1.5;mem:100")
    );
}

#[test]
fn operations() {
    let operation = |json: &str| from_json::<Operation>(json.as_bytes()).unwrap();
    let start = res("cpus:4;disk:100");
    let reserve = operation(
        r#"{"type":"RESERVE","reserve":{"resources":[{"name":"disk","type":"SCALAR",
            "scalar":{"value":10},"reservations":[{"type":"DYNAMIC","role":"web",
            "principal":"p"}]}]}}"#,
    );
    let reserved = start.apply(&reserve).unwrap();
    assert_eq!(reserved.to_string(), "cpus:4; disk:90; disk(reservations: [(DYNAMIC,web,p)]):10");
    let create = operation(&format!(r#"{{"type":"CREATE","create":{{"volumes":[{VOLUME}]}}}}"#));
    let created = reserved.apply(&create).unwrap();
    assert!(created.contains_proto(&proto(VOLUME)));
    let error = start.apply(&create).unwrap_err().to_string();
    assert_eq!(error, "cpus:4; disk:100 does not contain disk(reservations: [(DYNAMIC,web,p)]):10");
    let destroy = operation(&format!(r#"{{"type":"DESTROY","destroy":{{"volumes":[{VOLUME}]}}}}"#));
    assert_eq!(created.apply(&destroy).unwrap(), reserved);
    let unreserve = Operation {
        r#type: Some(3),
        unreserve: Some(crate::offer::operation::Unreserve {
            resources: reserve.reserve.clone().unwrap().resources,
        }),
        ..Default::default()
    };
    assert_eq!(reserved.apply(&unreserve).unwrap(), start);
    assert_eq!(start.apply(&Operation::default()), Err(ApplyError::Unknown));
    let unreserved = operation(
        r#"{"type":"RESERVE","reserve":{"resources":[{"name":"cpus","type":"SCALAR",
            "scalar":{"value":1}}]}}"#,
    );
    assert!(matches!(start.apply(&unreserved), Err(ApplyError::NotReserved(_))));
}

#[test]
fn invalid_messages() {
    for (json, message) in [
        (r#"{"name":"","type":"SCALAR"}"#, "Empty resource name"),
        (r#"{"name":"cpus","type":"SCALAR"}"#, "Invalid scalar resource"),
        (r#"{"name":"x","type":"TEXT"}"#, "Unsupported resource type"),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":0.0001}}"#,
            "Invalid scalar resource: value <= 0",
        ),
        (
            r#"{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":1,"end":5},{"begin":5,"end":6}]}}"#,
            "Invalid ranges resource: overlapping ranges",
        ),
        (
            r#"{"name":"s","type":"SET","set":{"item":["a","a"]}}"#,
            "Invalid set resource: duplicated elements",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"role":"a b"}"#,
            "Role component 'a b' is invalid because it contains backspace or whitespace",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"shared":{}}"#,
            "Resource cpus cannot be shared",
        ),
        (
            r#"{"name":"cpus","type":"SCALAR","scalar":{"value":1},"reservations":[{"type":"STATIC","role":"*"}]}"#,
            "Invalid reservation: role \"*\" cannot be reserved",
        ),
    ] {
        assert_eq!(validate(&proto(json)).unwrap_err().to_string(), message, "{json}");
    }
}

/// The oracle: every unit on its own. Keys are name and role.
#[derive(Debug, Clone, PartialEq, Default)]
struct Naive {
    millis: BTreeMap<(String, String), i64>,
    points: BTreeMap<(String, String), BTreeSet<u64>>,
}

fn naive(r: &Resources) -> Naive {
    let mut n = Naive::default();
    for item in r {
        let key = (item.name().to_owned(), item.reservation_role().unwrap_or("*").to_owned());
        match item.value() {
            Value::Scalar(s) => *n.millis.entry(key).or_default() += s.millis(),
            Value::Ranges(r) => {
                n.points.entry(key).or_default().extend(r.iter().flat_map(|(b, e)| b..=e))
            }
            Value::Set(_) => {}
        }
    }
    n
}

fn part() -> impl Strategy<Value = String> {
    let role = prop_oneof![Just(""), Just("(a)"), Just("(a/b)")];
    let scalar = (prop_oneof![Just("cpus"), Just("mem")], 1u32..5000)
        .prop_map(|(n, v)| (n, format!("{}.{:03}", v / 1000, v % 1000)));
    let range = (1u64..40, 0u64..8, 1u64..40, 0u64..8)
        .prop_map(|(a, x, b, y)| ("ports", format!("[{a}-{},{b}-{}]", a + x, b + y)));
    (prop_oneof![scalar, range], role)
        .prop_map(|((name, value), role)| format!("{name}{role}:{value}"))
}

fn some() -> impl Strategy<Value = Resources> {
    proptest::collection::vec(part(), 0..6).prop_map(|parts| res(&parts.join(";")))
}

proptest! {
    #[test]
    fn sums_agree_with_the_oracle(a in some(), b in some()) {
        let (x, y) = (naive(&a), naive(&b));
        let mut want = x.clone();
        for (k, v) in &y.millis { *want.millis.entry(k.clone()).or_default() += v; }
        for (k, v) in &y.points { want.points.entry(k.clone()).or_default().extend(v); }
        prop_assert_eq!(naive(&(&a + &b)), want);
        prop_assert_eq!(&a + &b, &b + &a);
    }

    #[test]
    fn containment_agrees_with_the_oracle(a in some(), b in some()) {
        let (x, y) = (naive(&a), naive(&b));
        let want = y.millis.iter().all(|(k, v)| x.millis.get(k).is_some_and(|h| h >= v))
            && y.points.iter().all(|(k, v)| x.points.get(k).is_some_and(|h| h.is_superset(v)));
        prop_assert_eq!(a.contains(&b), want);
        prop_assert!((&a + &b).contains(&b));
    }

    #[test]
    fn differences_agree_with_the_oracle(a in some(), b in some()) {
        let (mut want, y) = (naive(&a), naive(&b));
        for (k, v) in &y.millis {
            if let Some(h) = want.millis.get_mut(k) { *h -= v; }
        }
        want.millis.retain(|_, v| *v > 0);
        for (k, v) in &y.points {
            if let Some(h) = want.points.get_mut(k) { h.retain(|p| !v.contains(p)); }
        }
        want.points.retain(|_, v| !v.is_empty());
        prop_assert_eq!(naive(&(&a - &b)), want);
    }

    #[test]
    fn messages_round_trip(a in some()) {
        prop_assert_eq!(Resources::from_protos(&a.to_protos()).unwrap(), a.clone());
        let old = a.to_protos_in(Format::Pre).unwrap();
        prop_assert_eq!(Resources::from_protos(&old).unwrap(), a.clone());
        let both = a.to_protos_in(Format::Endpoint).unwrap();
        prop_assert_eq!(Resources::from_protos(&both).unwrap(), a);
    }

    #[test]
    fn the_parser_never_panics(text in "[a-z:;()\\[\\]{},0-9. -]{0,40}") {
        let _ = Resources::parse(&text, "*");
        let _ = crate::attributes::parse(&text);
        let _ = Quantities::parse(&text);
    }
}
