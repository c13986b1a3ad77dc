//! The protocol only ever grows: what was once released keeps its name, number and type, so that agents,
//! schedulers and clients of different versions understand each other.
#![allow(clippy::unwrap_used, reason = "a test ends where its ground does")]

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};
use trainyard_proto::pb::DESCRIPTORS;

fn message(scope: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let kind = match field.type_name() {
            "" => format!("{:?}", field.r#type()).to_lowercase(),
            named => named.trim_start_matches('.').to_owned(),
        };
        let label = format!("{:?}", field.label()).to_lowercase();
        lines.insert(format!("field {name} {} {} {label} {kind}", field.number(), field.name()));
    }
    for inner in &message.nested_type {
        self::message(&name, inner, lines);
    }
    for inner in &message.enum_type {
        enumeration(&name, inner, lines);
    }
}

fn enumeration(scope: &str, enumeration: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    for value in &enumeration.value {
        lines.insert(format!("value {scope}.{} {} {}", enumeration.name(), value.number(), value.name()));
    }
}

/// A line for each field, each value of an enumeration and each method.
fn described() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        let scope = file.package().to_owned();
        if !scope.starts_with("trainyard") {
            continue;
        }
        for one in &file.message_type {
            message(&scope, one, &mut lines);
        }
        for one in &file.enum_type {
            enumeration(&scope, one, &mut lines);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                lines.insert(format!(
                    "method {scope}.{}/{} {}{} {}{}",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type().trim_start_matches('.'),
                    stream(method.server_streaming()),
                    method.output_type().trim_start_matches('.'),
                ));
            }
        }
    }
    lines
}

/// `TRAINYARD_BLESS=1 cargo test` adds what is new to the list; read the difference.
#[test]
fn nothing_that_was_released_has_changed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/released.txt");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let released: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let described = described();
    let changed: Vec<&String> = released.difference(&described).collect();
    assert!(changed.is_empty(), "changed or gone, which older programs do not understand: {changed:#?}");
    if std::env::var_os("TRAINYARD_BLESS").is_some() {
        let lines: Vec<&str> = described.iter().map(String::as_str).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let new: Vec<&String> = described.difference(&released).collect();
    assert!(new.is_empty(), "not on the list yet, add it with TRAINYARD_BLESS=1: {new:#?}");
}
