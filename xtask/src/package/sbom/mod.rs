//! The bill of materials in the format CycloneDX 1.5: the crates that the agent's file is made of.
//!
//! Not by cargo-cyclonedx: its list is that of `cargo metadata`, which has the features of the whole workspace, and optional
//! crates that no feature enables.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    crates::{self, Crate, Id, Program},
    deb,
};
use crate::{process, setup};

#[cfg(test)]
mod tests;

/// The file's name, which has the ending that CycloneDX recommends.
pub const FILE: &str = "vpnhub.cdx.json";
const VERSION: &str = "1.5";

/// The bill of `crates`, for an agent of version `release`, built for `target`. `epoch`: its time, in seconds since 1970.
/// Equal arguments and compilers give equal text: it has no serial number, which would be random.
pub fn text(crates: &BTreeMap<Id, Crate>, release: &str, target: &str, epoch: u64) -> Result<String> {
    let compilers = [(Program::Agent, crates::compiler()?), (Program::Kernel, setup::compiler()?.rustc)];
    let mut properties = vec![property("cdx:rustc:sbom:target:triple", target)];
    properties
        .extend(compilers.iter().map(|(of, compiler)| property(&format!("vpnhub:compiler:{}", of.name()), compiler)));
    let root = format!("{}@{release}", deb::NAME);
    let programs: Vec<String> = Program::ALL
        .iter()
        .filter_map(|program| crates.keys().find(|id| id.name == program.package()))
        .map(|id| reference(id, &crates[id]))
        .collect();
    let mut dependencies = vec![json!({ "ref": root, "dependsOn": programs })];
    dependencies.extend(crates.iter().map(|(id, found)| {
        let on: Vec<String> = found.dependencies.iter().map(|id| reference(id, &crates[id])).collect();
        json!({ "ref": reference(id, found), "dependsOn": on })
    }));
    let bill = json!({
        "$schema": format!("http://cyclonedx.org/schema/bom-{VERSION}.schema.json"),
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "version": 1,
        "metadata": {
            "timestamp": timestamp(epoch)?,
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": deb::NAME,
                "version": release,
                "licenses": licences(Some("MIT OR Apache-2.0")),
            },
            "properties": properties,
        },
        "components": crates.iter().map(|(id, found)| component(id, found)).collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bill).context("writing JSON")? + "\n")
}

fn component(id: &Id, found: &Crate) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(id, found),
        "name": id.name,
        "version": id.version,
        // Procedural macros and their crates run in the compiler; their code is not in the file.
        "scope": if found.linked { "required" } else { "excluded" },
        "properties": found.programs.iter().map(|program| property("vpnhub:program", program.name())).collect::<Vec<_>>(),
    });
    if found.licence.is_some() {
        component["licenses"] = licences(found.licence.as_deref());
    }
    if let Some(sha256) = &found.sha256 {
        component["purl"] = reference(id, found).into();
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sha256 }]);
    }
    if let Some(url) = &found.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    component
}

/// Of a crate at crates.io its package URL, whose version is percent-encoded. Packages of this workspace are not there.
fn reference(Id { name, version }: &Id, found: &Crate) -> String {
    match found.sha256 {
        Some(_) => format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
        None => format!("{name}@{version}"),
    }
}

fn licences(expression: Option<&str>) -> Value {
    expression.map(|expression| json!({ "expression": expression })).into_iter().collect()
}

fn property(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

/// As RFC 3339 has it.
fn timestamp(epoch: u64) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", &format!("--date=@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"]);
    process::capture(&mut date).context("date failed")
}

/// Fails unless a bill is valid by the published schema, with all its keywords and the list of SPDX licences.
pub fn validate(bill: &Path) -> Result<()> {
    const PROGRAM: &str = "import sys\n\
        from cyclonedx.schema import SchemaVersion\n\
        from cyclonedx.validation.json import JsonStrictValidator\n\
        error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())\n\
        sys.exit(str(error) if error else 0)\n";
    let text = File::open(bill).with_context(|| format!("opening {}", bill.display()))?;
    let mut python = Command::new(setup::python_tool("python3")?);
    let status = process::status(python.args(["-c", PROGRAM]).stdin(Stdio::from(text)))?;
    ensure!(status.success(), "{} is no valid CycloneDX {VERSION}", bill.display());
    println!("{}: valid CycloneDX {VERSION}", bill.display());
    Ok(())
}
