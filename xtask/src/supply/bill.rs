//! Bills of materials in CycloneDX 1.5 (JSON): what the command, the firmware's image and the C library link.
//!
//! Written here: cargo-cyclonedx writes a bill for each member beside its manifest, of all that any target could link.
//! A bill has no date and no serial number: the same sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::tree::{self, Key};
use super::{Outcome, folder, read, root};
use crate::firmware::Done;

/// What a bill is for.
struct Product {
    /// Name of the file.
    file: &'static str,
    /// Kind, as CycloneDX has it.
    kind: &'static str,
    workspace: &'static str,
    package: &'static str,
    /// None: the machine's own.
    target: Option<&'static str>,
    features: &'static str,
}

const PRODUCTS: [Product; 3] = [
    Product {
        file: "cptr.cdx.json",
        kind: "application",
        workspace: ".",
        package: "cptr-cli",
        target: None,
        features: "model",
    },
    Product {
        file: "cptr-controller.cdx.json",
        kind: "firmware",
        workspace: "firmware",
        package: "cptr-controller",
        target: Some("thumbv7em-none-eabihf"),
        features: "",
    },
    Product {
        file: "libcptr.cdx.json",
        kind: "library",
        workspace: "firmware",
        package: "cptr-ffi",
        target: None,
        features: "",
    },
];

pub(super) fn check() -> Done<Outcome> {
    for product in &PRODUCTS {
        let bill = bill(product)?;
        let text = format!("{bill:#}\n");
        let path = folder()?.join(product.file);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        let linked = bill["components"].as_array().into_iter().flatten().filter(|part| part["scope"] == "required");
        println!("{}: {} crates linked", path.display(), linked.count());
    }
    Ok(Outcome::Passed)
}

fn bill(product: &Product) -> Done<Value> {
    let edges = |kinds: &str| tree::edges(product.workspace, product.package, product.target, product.features, kinds);
    let (linked, all) = (edges("normal,no-proc-macro")?, edges("normal,build")?);
    let packages = tree::packages(product.workspace)?;
    let digests = digests(&read(&root().join(product.workspace).join("Cargo.lock"))?)?;
    let component = |key: &Key| -> Done<Value> {
        let package = packages.get(key).ok_or_else(|| format!("cargo metadata has no {} {}", key.0, key.1))?;
        let mut value = json!({
            "type": "library",
            "bom-ref": package.purl(),
            "name": package.name,
            "version": package.version,
            "purl": package.purl(),
            // What only makes other code, or helps to, is no part of the product.
            "scope": if linked.contains_key(key) { "required" } else { "excluded" },
        });
        if let Some(license) = &package.license {
            let expression = license.replace('/', " OR ").split_whitespace().collect::<Vec<_>>().join(" ");
            value["licenses"] = json!([{ "expression": expression }]);
        }
        if let Some(description) = &package.description {
            value["description"] = description.split_whitespace().collect::<Vec<_>>().join(" ").into();
        }
        if let Some(digest) = digests.get(key) {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
        }
        if let Some(links) = &package.links {
            value["properties"] = json!([{ "name": "cargo:links", "value": links }]);
        }
        if package.source.is_none() {
            value["supplier"] = json!({ "name": "cptr" });
        }
        Ok(value)
    };
    let own = all.keys().find(|key| key.0 == product.package).ok_or("cargo tree has not the package itself")?;
    let mut itself = component(own)?;
    itself["type"] = product.kind.into();
    let purl = |key: &Key| format!("pkg:cargo/{}@{}", key.0, key.1);
    let depends = |on: &BTreeSet<Key>| on.iter().map(purl).collect::<Vec<_>>();
    let dependencies: Vec<Value> =
        all.iter().map(|(key, on)| json!({ "ref": purl(key), "dependsOn": depends(on) })).collect();
    let components = all.keys().filter(|key| *key != own).map(component).collect::<Done<Vec<_>>>()?;
    let toolchain = read(&root().join("rust-toolchain.toml"))?;
    let channel = toolchain.split('"').nth(1).ok_or("rust-toolchain.toml names no channel")?;
    let target = product.target.unwrap_or("the host");
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": itself,
            "properties": [
                { "name": "cptr:rustc", "value": channel },
                { "name": "cptr:target", "value": target },
                { "name": "cptr:features", "value": product.features },
            ],
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Checksums of the crates in a lock file.
fn digests(lock: &str) -> Done<BTreeMap<Key, String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Locked>,
    }
    #[derive(Deserialize)]
    struct Locked {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).map_err(|error| format!("Cargo.lock: {error}"))?;
    let known = lock.package.into_iter().filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?)));
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference leads somewhere, and what comes from the registry has a digest; twice the same.
    #[test]
    fn bills_are_whole_and_the_same_every_time() {
        for product in &PRODUCTS {
            let found = bill(product).unwrap();
            assert_eq!(found.to_string(), bill(product).unwrap().to_string());
            let components = found["components"].as_array().unwrap();
            let mut known: BTreeSet<&str> =
                components.iter().map(|component| component["bom-ref"].as_str().unwrap()).collect();
            known.insert(found["metadata"]["component"]["bom-ref"].as_str().unwrap());
            for entry in found["dependencies"].as_array().unwrap() {
                let on = entry["dependsOn"].as_array().unwrap().iter().chain([&entry["ref"]]);
                assert!(on.map(|on| on.as_str().unwrap()).all(|on| known.contains(on)), "{entry}");
            }
            for component in components {
                let own = component["supplier"]["name"] == "cptr";
                assert!(own || component["hashes"][0]["content"].as_str().is_some_and(|digest| digest.len() == 64));
                assert!(component["licenses"][0]["expression"].as_str().is_some_and(|text| !text.contains('/')));
            }
            let linked = |name: &str| components.iter().any(|c| c["name"] == name && c["scope"] == "required");
            assert!(linked("cptr-core") && !linked("proptest") && !linked("syn"), "{}", product.file);
        }
    }
}
