//! Tests of the JSON dialect: what is printed, what is read, which errors.

use super::*;
use crate as mesos;
use prost::Message as _;

fn double(d: f64) -> String {
    let mut out = Vec::new();
    write_double(d, &mut out);
    String::from_utf8(out).expect("ASCII")
}

#[test]
fn doubles_are_laid_out_as_mesos_lays_them_out() {
    for (d, text) in [
        (0.0, "0.0"),
        (4.0, "4.0"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (0.001, "0.001"),
        (1_795_214_741.037_361, "1795214741.037361"),
        (1e20, "100000000000000000000.0"),
        (1e21, "1e21"),
        (1.5e30, "1.5e30"),
        (1e-6, "0.000001"),
        (-0.0, "-0.0"),
        (f64::MAX, "1.7976931348623157e308"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (123_456_789.25, "123456789.25"),
        (120.0, "120.0"),
        (1.5e-7, "1.5e-7"),
        (f64::INFINITY, "\"Infinity\""),
    ] {
        assert_eq!(double(d), text);
    }
}

#[test]
fn of_map_entries_with_one_key_the_last_counts() {
    let of = |pairs: &[(&str, f64)]| {
        let scalar = |(name, value): &(&str, f64)| {
            ((*name).to_owned(), mesos::value::Scalar { value: *value })
        };
        let quantities = pairs.iter().map(scalar).collect();
        mesos::offer_filters::ResourceQuantities { quantities }.encode_to_vec()
    };
    let bytes = [of(&[("cpus", 1.0), ("mem", 2.0)]), of(&[("cpus", 3.0)])].concat();
    let schema = mesos::schema::find("mesos.OfferFilters.ResourceQuantities").expect("known");
    let mut text = Vec::new();
    write(schema, &bytes, &mut text).expect("well formed");
    let wanted = r#"{"quantities":{"mem":{"value":2.0},"cpus":{"value":3.0}}}"#;
    assert_eq!(String::from_utf8(text).expect("UTF-8"), wanted);
}

#[test]
fn explicit_defaults_are_printed_and_deprecated_ones_are_not() {
    let filters = mesos::Filters::default();
    assert_eq!(to_json(&filters), br#"{"refuse_seconds":5.0}"#);
    let info = mesos::FrameworkInfo { user: "u".into(), name: "n".into(), ..Default::default() };
    let text = String::from_utf8(to_json(&info)).expect("UTF-8");
    assert_eq!(text, r#"{"user":"u","name":"n","failover_timeout":0.0,"checkpoint":false}"#);
}

#[test]
fn messages_survive_the_round_trip() {
    let text = br#"{"id":{"value":"O1"},"framework_id":{"value":"F"},"slave_id":{"value":"S"},
        "hostname":"h","resources":[{"name":"ports","type":"RANGES",
        "ranges":{"range":[{"begin":1,"end":"18446744073709551615"}]},"surplus":[1,{}]}],
        "attributes":null}"#;
    let offer: mesos::Offer = from_json(text).expect("valid");
    let ranges = offer.resources[0].ranges.as_ref().expect("ranges");
    assert_eq!(ranges.range[0].end, u64::MAX);
    let again: mesos::Offer = from_json(&to_json(&offer)).expect("own output");
    assert_eq!(again, offer);
    // The v1 names of the same bytes.
    let v1 = String::from_utf8(mesos::v1::to_json("mesos.v1.Offer", &offer).expect("same shape"));
    assert!(v1.expect("UTF-8").contains(r#""agent_id":{"value":"S"}"#));
    let bytes = offer.encode_to_vec();
    assert_eq!(parse(crate::schema::of::<mesos::Offer>(), &to_json(&offer)), Ok(bytes));
}

#[test]
fn errors_are_worded_as_mesos_words_them() {
    let error = |text: &str| {
        mesos::v1::from_json("mesos.v1.master.Call", text.as_bytes()).expect_err("bad").to_string()
    };
    assert_eq!(error("{not json"), "syntax error at line 1 near: not json");
    assert_eq!(error(""), "syntax error at line 1 near: ");
    assert_eq!(error("[]"), "Expecting a JSON object");
    assert_eq!(error(r#"{"type": 3}"#), "Not expecting a JSON number for field 'type'");
    assert_eq!(
        error(r#"{"set_logging_level": {"level": "x", "duration": {"nanoseconds": 1}}}"#),
        "Failed to parse 'x' as a JSON number for field 'level': syntax error at line 1 near: x"
    );
    assert_eq!(
        error(r#"{"set_logging_level": {"level": -1, "duration": {"nanoseconds": 1}}}"#),
        "Number -1 for field 'level' is not an unsigned 32-bit integer"
    );
    assert_eq!(
        error(r#"{"teardown": {"framework_id": {}}}"#),
        "Missing required fields: teardown.framework_id.value"
    );
}

#[test]
fn unknown_values_of_optional_enums_read_as_unset() {
    let bytes = mesos::v1::from_json("mesos.v1.master.Call", br#"{"type":"NO_SUCH_CALL"}"#);
    assert_eq!(bytes, Ok(vec![]));
}

#[test]
fn v1_subscribe_is_renumbered() {
    let text = br#"{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"},
        "suppressed_roles":["a"]}}"#;
    let bytes = mesos::v1::from_json("mesos.v1.scheduler.Call", text).expect("valid");
    let call = mesos::v1::scheduler_call(&bytes).expect("complete");
    let subscribe = call.subscribe.expect("subscribe");
    assert_eq!(subscribe.suppressed_roles, ["a"]);
    assert_eq!(subscribe.framework_info.name, "n");
}

#[test]
fn sorted_members_are_sorted_at_every_level() {
    let id = crate::ContainerId {
        value: "c".into(),
        parent: Some(Box::new(crate::ContainerId { value: "p".into(), parent: None })),
    };
    let mut out = Vec::new();
    let bytes = prost::Message::encode_to_vec(&id);
    super::write_sorted(crate::schema::of::<crate::ContainerId>(), &bytes, &mut out).expect("fits");
    assert_eq!(out, br#"{"parent":{"value":"p"},"value":"c"}"#);
}

#[test]
fn a_member_of_ones_own_has_its_place_in_the_outermost_object() {
    let id = crate::ContainerId {
        value: "c".into(),
        parent: Some(Box::new(crate::ContainerId { value: "p".into(), parent: None })),
    };
    let rows: [(&str, &[u8]); 3] = [
        ("a", br#"{"a":[1],"parent":{"value":"p"},"value":"c"}"#),
        ("q", br#"{"parent":{"value":"p"},"q":[1],"value":"c"}"#),
        ("z", br#"{"parent":{"value":"p"},"value":"c","z":[1]}"#),
    ];
    for (name, wanted) in rows {
        let mut w = super::Writer::new();
        w.sorted_message_with(&id, name, b"[1]");
        assert_eq!(w.into_bytes(), wanted);
    }
    let mut w = super::Writer::new();
    w.array(|w| {
        w.uint(1);
        w.sorted_message_with(&crate::ContainerId::default(), "a", b"2");
    });
    assert_eq!(w.into_bytes(), br#"[1,{"a":2,"value":""}]"#);
}
