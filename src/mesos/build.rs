//! Compiles the `.proto` definitions twice: into Rust structs for the v0 and
//! internal packages (prost), and into static schema tables for *all* packages
//! (`$OUT_DIR/schema.rs`), from which the JSON dialect, the text form and the
//! required-field check are driven.
//!
//! v1 messages have the same wire form as their v0 twins but for
//! `scheduler.Call.Subscribe`, so they need tables, not second structs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let root = Path::new("proto");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let set = protox::compile(&files, [root])?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("schema.rs"), Tables::of(&set).render())?;

    let mut structs = FileDescriptorSet {
        file: set
            .file
            .into_iter()
            .filter(|f| !f.package().starts_with("mesos.v1") && !f.package().starts_with("google."))
            .collect(),
    };
    // Deprecated by Mesos means "still on every wire" to us: no Rust warnings.
    for file in &mut structs.file {
        file.enum_type.iter_mut().for_each(undeprecate_enum);
        file.message_type.iter_mut().for_each(undeprecate);
    }
    let mut config = prost_build::Config::new();
    config.btree_map(["."]);
    config.enable_type_names();
    config.include_file("packages.rs");
    config.compile_fds(structs)?;
    Ok(())
}

fn undeprecate(message: &mut DescriptorProto) {
    for options in message.field.iter_mut().filter_map(|f| f.options.as_mut()) {
        options.deprecated = None;
    }
    message.enum_type.iter_mut().for_each(undeprecate_enum);
    message.nested_type.iter_mut().for_each(undeprecate);
}

fn undeprecate_enum(definition: &mut EnumDescriptorProto) {
    for options in definition.value.iter_mut().filter_map(|v| v.options.as_mut()) {
        options.deprecated = None;
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}

/// Everything the generated tables need, by full name without leading dot.
#[derive(Default)]
struct Tables<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Tables<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut tables = Tables::default();
        for file in &set.file {
            for e in &file.enum_type {
                tables.enums.insert(format!("{}.{}", file.package(), e.name()), e);
            }
            for m in &file.message_type {
                tables.add(format!("{}.{}", file.package(), m.name()), m);
            }
        }
        tables
    }

    fn add(&mut self, full: String, message: &'a DescriptorProto) {
        for e in &message.enum_type {
            self.enums.insert(format!("{full}.{}", e.name()), e);
        }
        for m in &message.nested_type {
            self.add(format!("{full}.{}", m.name()), m);
        }
        self.messages.insert(full, message);
    }

    fn render(&self) -> String {
        let mut s = String::new();
        for (i, (name, e)) in self.enums.iter().enumerate() {
            if !self.used(name) {
                continue;
            }
            let values: Vec<String> =
                e.value.iter().map(|v| format!("({:?}, {})", v.name(), v.number())).collect();
            let _ = writeln!(
                s,
                "static E{i}: EnumSchema = EnumSchema {{ name: {name:?}, values: &[{}] }};",
                values.join(", ")
            );
        }
        for (i, (name, m)) in self.messages.iter().enumerate() {
            let fields: Vec<String> =
                m.field.iter().map(|f| format!("    {},\n", self.field(f))).collect();
            let mut by_name: Vec<usize> = (0..m.field.len()).collect();
            by_name.sort_by_key(|f| m.field[*f].name());
            let _ = writeln!(
                s,
                "static M{i}: MessageSchema = MessageSchema {{ name: {name:?}, fields: &[\n{}], \
                 by_name: &{by_name:?} }};",
                fields.concat()
            );
        }
        let all: Vec<String> = (0..self.messages.len()).map(|i| format!("&M{i}")).collect();
        let _ = writeln!(
            s,
            "/// Every message, sorted by full name.\n\
             pub(crate) static MESSAGES: &[&MessageSchema] = &[{}];",
            all.join(", ")
        );
        s
    }

    /// Whether some field has this enum type; tables of others would be dead.
    fn used(&self, name: &str) -> bool {
        let mut fields = self.messages.values().flat_map(|m| &m.field);
        fields.any(|f| f.type_name().trim_start_matches('.') == name)
    }

    fn field(&self, f: &FieldDescriptorProto) -> String {
        let label = match f.label() {
            Label::Required => "Required",
            Label::Optional => "Optional",
            Label::Repeated => "Repeated",
        };
        let kind = match f.r#type() {
            Type::Double => "Double".into(),
            Type::Float => "Float".into(),
            Type::Int64 => "Int64".into(),
            Type::Uint64 => "Uint64".into(),
            Type::Int32 => "Int32".into(),
            Type::Uint32 => "Uint32".into(),
            Type::Bool => "Bool".into(),
            Type::String => "String".into(),
            Type::Bytes => "Bytes".into(),
            Type::Enum => {
                let i = index(&self.enums, f.type_name());
                format!("Enum(&E{i})")
            }
            Type::Message => {
                let full = f.type_name().trim_start_matches('.');
                let i = index(&self.messages, full);
                let map = self.messages[full].options.as_ref().is_some_and(|o| o.map_entry());
                if map { format!("Map(&M{i})") } else { format!("Message(&M{i})") }
            }
            other => panic!("{other:?} is not used by any Mesos message"),
        };
        let default = match (&f.default_value, f.r#type()) {
            (None, _) => "None".into(),
            (Some(v), Type::Bool) => format!("Some(Default::Bool({v}))"),
            (Some(v), Type::Double | Type::Float) => {
                format!("Some(Default::Double({:?}))", v.parse::<f64>().expect("float default"))
            }
            (Some(v), Type::Enum | Type::String) => format!("Some(Default::Text({v:?}))"),
            (Some(v), _) => format!("Some(Default::Int({v}))"),
        };
        let options = f.options.as_ref();
        format!(
            "FieldSchema {{ name: {:?}, number: {}, label: Label::{label}, kind: Kind::{kind}, \
             default: {default}, deprecated: {}, packed: {} }}",
            f.name(),
            f.number(),
            options.is_some_and(|o| o.deprecated()),
            options.is_some_and(|o| o.packed()),
        )
    }
}

fn index<T>(map: &BTreeMap<String, T>, name: &str) -> usize {
    let name = name.trim_start_matches('.');
    map.keys().position(|k| k == name).unwrap_or_else(|| panic!("unknown type {name}"))
}
