//! gRPC services, from the descriptor set with the comments of the `.proto` files.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use super::cell;

/// Numbers of fields in `descriptor.proto`, of which the path to a comment is made.
const OF_FILE: (i32, i32, i32) = (4, 5, 6);
const OF_MESSAGE: (i32, i32, i32) = (2, 3, 4);

pub(super) fn page() -> String {
    let set = FileDescriptorSet::decode(sealane_proto::DESCRIPTOR_SET).unwrap();
    let mut page = "# gRPC\n\nWritten from the descriptor set, which the servers also give out by reflection. Package `sealane.v1`; calls carry \
                    `authorization: Bearer TOKEN`, except health and reflection. `ProxyControlService` is the agent's, `AgentLocalService` is on \
                    its Unix socket, everything else is the authority's. Fields are only ever added.\n"
        .to_owned();
    let ours = |file: &&FileDescriptorProto| file.package() == "sealane.v1";
    for file in set.file.iter().filter(ours) {
        let comments = comments(file);
        for (index, service) in file.service.iter().enumerate() {
            let at = vec![OF_FILE.2, index as i32];
            let _ = write!(page, "\n## {}\n\n{}", service.name(), paragraph(&comments, &at));
            page.push_str("| Call | Takes | Gives | |\n|---|---|---|---|\n");
            for (number, call) in service.method.iter().enumerate() {
                let about = comments.get([at.as_slice(), &[2, number as i32]].concat().as_slice());
                let stream = |is: bool| if is { "stream of " } else { "" };
                let _ = writeln!(
                    page,
                    "| `{}` | {}{} | {}{} | {} |",
                    call.name(),
                    stream(call.client_streaming()),
                    linked(call.input_type()),
                    stream(call.server_streaming()),
                    linked(call.output_type()),
                    cell(about.map_or("", String::as_str))
                );
            }
        }
    }
    page.push_str("\n## Messages\n");
    for file in set.file.iter().filter(ours) {
        let comments = comments(file);
        for (index, message) in file.message_type.iter().enumerate() {
            of_message(&mut page, &comments, vec![OF_FILE.0, index as i32], "", message);
        }
        for (index, words) in file.enum_type.iter().enumerate() {
            of_words(&mut page, &comments, &[OF_FILE.1, index as i32], "", words);
        }
    }
    page
}

type Comments = HashMap<Vec<i32>, String>;

/// Comments above and beside items, by the path of the item.
fn comments(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
    locations
        .map(|location| {
            let parts = [text(location.leading_comments.as_deref()), text(location.trailing_comments.as_deref())];
            let all: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            let lines: Vec<&str> = all.iter().flat_map(|part| part.lines()).map(str::trim).collect();
            (location.path.clone(), lines.join(" "))
        })
        .filter(|(_, text)| !text.is_empty())
        .collect()
}

fn paragraph(comments: &Comments, at: &[i32]) -> String {
    comments.get(at).map(|text| format!("{}\n\n", text.replace('<', "\\<"))).unwrap_or_default()
}

fn of_message(page: &mut String, comments: &Comments, at: Vec<i32>, above: &str, message: &DescriptorProto) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let name = format!("{above}{}", message.name());
    let _ = write!(page, "\n### {name}\n\n{}", paragraph(comments, &at));
    if !message.field.is_empty() {
        page.push_str("| Field | Type | |\n|---|---|---|\n");
    }
    for (number, field) in message.field.iter().enumerate() {
        let about = comments.get([at.as_slice(), &[OF_MESSAGE.0, number as i32]].concat().as_slice());
        let of = field.oneof_index.filter(|_| !field.proto3_optional());
        let of = of.map(|index| format!("one of `{}`", message.oneof_decl[index as usize].name()));
        let about = [of.unwrap_or_default(), about.cloned().unwrap_or_default()];
        let about: Vec<String> = about.into_iter().filter(|part| !part.is_empty()).collect();
        let _ = writeln!(page, "| `{}` | {} | {} |", field.name(), kind(field), cell(&about.join(": ")));
    }
    let name = format!("{name}.");
    for (index, below) in message.nested_type.iter().enumerate() {
        of_message(page, comments, [at.as_slice(), &[OF_MESSAGE.1, index as i32]].concat(), &name, below);
    }
    for (index, words) in message.enum_type.iter().enumerate() {
        of_words(page, comments, &[at.as_slice(), &[OF_MESSAGE.2, index as i32]].concat(), &name, words);
    }
}

fn of_words(page: &mut String, comments: &Comments, at: &[i32], above: &str, words: &EnumDescriptorProto) {
    let _ = write!(page, "\n### {above}{}\n\n{}", words.name(), paragraph(comments, at));
    page.push_str("| Value | |\n|---|---|\n");
    for (number, word) in words.value.iter().enumerate() {
        let about = comments.get([at, &[2, number as i32]].concat().as_slice());
        let _ = writeln!(page, "| `{}` | {} |", word.name(), cell(about.map_or("", String::as_str)));
    }
}

fn kind(field: &FieldDescriptorProto) -> String {
    let many = if field.label() == Label::Repeated { "list of " } else { "" };
    let word = match field.r#type() {
        Type::Message | Type::Enum => linked(field.type_name()),
        scalar => format!("`{}`", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    };
    format!("{many}{word}")
}

/// `.sealane.v1.Node` → a link to its heading; others by their last name.
fn linked(path: &str) -> String {
    match path.strip_prefix(".sealane.v1.") {
        Some(name) if !name.ends_with("Entry") => format!("[{name}](#{})", name.to_lowercase().replace('.', "")),
        _ => format!("`{}`", path.trim_start_matches('.')),
    }
}
