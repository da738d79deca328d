//! A Director's compile stage: packages become requests; results are checked and passed to dependents.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Director, Failure, reply};
use crate::support::blobstore::Blobstore;
use crate::support::source_release::{SourcePackage, SourceRelease};

/// A compiled package, as in the Director's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompiledPackage {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) blob: String,
    pub(crate) digest: String,
}

/// The compiled packages by name.
pub(crate) type CompiledPackages = BTreeMap<String, CompiledPackage>;

/// A request to compile a package.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) method: &'static str,
    pub(crate) arguments: Value,
    /// The id of the result, if the Director chooses it.
    pub(crate) result_blob: Option<String>,
}

/// The request for a package whose source is the blob `source`, with its direct dependencies from the compiled packages.
#[track_caller]
pub(crate) fn order(
    package: &SourcePackage,
    source: &str,
    compiled: &CompiledPackages,
    blobstore: &Blobstore,
) -> Order {
    let mut dependencies = Map::new();
    for name in &package.dependencies {
        let dependency = compiled
            .get(name)
            .unwrap_or_else(|| panic!("{} needs {name} first", package.name));
        let mut entry = json!({
            "name": dependency.name,
            "version": dependency.version,
            "sha1": dependency.digest,
            "blobstore_id": dependency.blob,
        });
        if blobstore.signs() {
            entry["package_get_signed_url"] = blobstore.signed_url(&dependency.blob).into();
        }
        dependencies.insert(name.clone(), entry);
    }
    if blobstore.signs() {
        let result = uuid::Uuid::new_v4().to_string();
        return Order {
            method: "compile_package_with_signed_url",
            arguments: json!([{
                "package_get_signed_url": blobstore.signed_url(source),
                "upload_signed_url": blobstore.signed_url(&result),
                "digest": package.digest,
                "name": package.name,
                "version": package.version,
                "deps": dependencies,
            }]),
            result_blob: Some(result),
        };
    }
    Order {
        method: "compile_package",
        arguments: json!([
            source,
            package.digest,
            package.name,
            package.version,
            dependencies
        ]),
        result_blob: None,
    }
}

/// Reads the value of a compile task like a Director.
pub(crate) fn result(
    package: &SourcePackage,
    order: &Order,
    value: &Value,
) -> Result<CompiledPackage, Failure> {
    let result = &value["result"];
    let blob = order.result_blob.clone().or_else(|| {
        let id = result["blobstore_id"].as_str();
        id.map(str::to_owned)
    });
    let blob = blob.unwrap_or_default();
    if !reply::is_uuid(&blob) {
        return Err(Failure::Refused(format!(
            "the id of the compiled blob is {blob:?}"
        )));
    }
    let Some(digest) = result["sha1"].as_str() else {
        return Err(Failure::Refused(format!("no digest in {value}")));
    };
    Ok(CompiledPackage {
        name: package.name.clone(),
        version: package.version.clone(),
        blob,
        digest: digest.to_owned(),
    })
}

impl Director {
    /// Compiles one package.
    pub(crate) async fn compile(
        &self,
        package: &SourcePackage,
        compiled: &CompiledPackages,
        blobstore: &Blobstore,
    ) -> Result<CompiledPackage, Failure> {
        let source = blobstore.put_file(&package.blob);
        self.compile_from(package, &source, compiled, blobstore)
            .await
    }

    /// The same for a source that is in the blobstore.
    pub(crate) async fn compile_from(
        &self,
        package: &SourcePackage,
        source: &str,
        compiled: &CompiledPackages,
        blobstore: &Blobstore,
    ) -> Result<CompiledPackage, Failure> {
        let order = order(package, source, compiled, blobstore);
        let value = self.send(order.method, order.arguments.clone()).await?;
        let result = result(package, &order, &value)?;
        blobstore.check(&result);
        Ok(result)
    }

    /// Starts the compile of a package and returns the id of its task.
    pub(crate) async fn start_compile(
        &self,
        package: &SourcePackage,
        compiled: &CompiledPackages,
        blobstore: &Blobstore,
    ) -> (Order, String) {
        let source = blobstore.put_file(&package.blob);
        let order = order(package, &source, compiled, blobstore);
        let task = self.start_task(order.method, order.arguments.clone()).await;
        (order, task)
    }

    /// Compiles all packages of a release, one after another, as on a reused VM.
    pub(crate) async fn compile_release(
        &self,
        release: &SourceRelease,
        blobstore: &Blobstore,
    ) -> Result<CompiledPackages, Failure> {
        let mut compiled = CompiledPackages::new();
        for package in &release.packages {
            let result = self.compile(package, &compiled, blobstore).await?;
            compiled.insert(package.name.clone(), result);
        }
        Ok(compiled)
    }
}

mod tests {
    use std::path::PathBuf;

    use super::*;

    fn package(dependencies: &[&str]) -> SourcePackage {
        SourcePackage {
            name: "app".to_owned(),
            version: "5a.1".to_owned(),
            digest: "sha256:ab".to_owned(),
            dependencies: dependencies.iter().map(|name| (*name).to_owned()).collect(),
            blob: PathBuf::new(),
        }
    }

    fn compiled(name: &str) -> CompiledPackage {
        CompiledPackage {
            name: name.to_owned(),
            version: "1.1".to_owned(),
            blob: format!("blob of {name}"),
            digest: "cd".to_owned(),
        }
    }

    #[test]
    fn request_names_only_direct_dependencies() {
        let blobstore = Blobstore::local();
        let there = ["lib", "other"].map(|name| (name.to_owned(), compiled(name)));
        let order = order(&package(&["lib"]), "source", &there.into(), &blobstore);
        assert_eq!(order.method, "compile_package");
        let expected = json!(["source", "sha256:ab", "app", "5a.1", { "lib": {
            "name": "lib", "version": "1.1", "sha1": "cd", "blobstore_id": "blob of lib",
        }}]);
        assert_eq!(order.arguments, expected);
    }

    #[test]
    fn result_needs_an_id_and_a_digest() {
        let blobstore = Blobstore::local();
        let package = package(&[]);
        let order = order(&package, "source", &CompiledPackages::new(), &blobstore);
        let read = |value: Value| result(&package, &order, &value);
        let id = "3a5e6c5e-8f0b-4f66-a9d4-32c1f3b3b3c3";
        let good = read(json!({"result": {"blobstore_id": id, "sha1": "ab"}})).unwrap();
        assert_eq!((good.blob.as_str(), good.digest.as_str()), (id, "ab"));
        for bad in [
            json!("compiled"),
            json!({"result": {"blobstore_id": "x", "sha1": "ab"}}),
            json!({"result": {"blobstore_id": id}}),
        ] {
            assert!(matches!(read(bad), Err(Failure::Refused(_))));
        }
    }
}
