//! Object stores by URL, and the local store that is durable.

mod local;

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

pub use local::DurableLocal;

use crate::{ConnectorError, Result};

/// Opens `s3://bucket/prefix`, `gs://`, `az://`, `http(s)://`, `memory://`, `file:///abs` or a plain path.
///
/// Credentials and endpoints of clouds come from the environment (`AWS_*` and the like) and from `options`.
/// Local folders get [`DurableLocal`]: temp file, fsync, link, fsync of the directory (object_store's own local store
/// never fsyncs); the folder is made if it is missing. The returned store is already scoped to the prefix.
pub fn open_store(url: &str, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    let Some(url) = parse_url(url)? else {
        return Ok(Arc::new(DurableLocal::open(url).map_err(|e| local_error(url, e))?));
    };
    let failed = |e: object_store::Error| ConnectorError::config(format!("cannot open store \"{url}\": {e}"));
    let prefix = Path::from_url_path(url.path())
        .map_err(|e| ConnectorError::config(format!("invalid path in store URL \"{url}\": {e}")))?;
    /// Sets every option of the user on a builder.
    macro_rules! configured {
        ($builder:expr) => {{
            let mut builder = $builder;
            for (key, value) in options {
                let key = key
                    .to_ascii_lowercase()
                    .parse()
                    .map_err(|_| ConnectorError::config(format!("unknown option \"{key}\" for store \"{url}\"")))?;
                builder = builder.with_config(key, value);
            }
            builder
        }};
    }
    Ok(match url.scheme() {
        "s3" | "s3a" => {
            let builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket(&url)?)
                .with_conditional_put(S3ConditionalPut::ETagMatch);
            scoped(configured!(builder).build().map_err(failed)?, prefix)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket(&url)?);
            scoped(configured!(builder).build().map_err(failed)?, prefix)
        }
        "az" | "azure" => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket(&url)?);
            scoped(configured!(builder).build().map_err(failed)?, prefix)
        }
        "http" | "https" => Arc::new(configured!(HttpBuilder::new().with_url(url.as_str())).build().map_err(failed)?),
        "memory" => scoped(InMemory::new(), prefix),
        "file" => {
            let path = url
                .to_file_path()
                .map_err(|()| ConnectorError::config(format!("\"{url}\" is not the URL of a local folder")))?;
            Arc::new(DurableLocal::open(&path).map_err(|e| local_error(url.as_str(), e))?)
        }
        other => {
            return Err(ConnectorError::config(format!("unknown scheme \"{other}\" in store URL \"{url}\""))
                .hint("Schemes are: s3, gs, az, http, https, file, memory; or give a plain path."));
        }
    })
}

/// The URL, or `None` if the text is a plain path.
pub(crate) fn parse_url(text: &str) -> Result<Option<Url>> {
    if text.is_empty() {
        return Err(ConnectorError::config("the store URL is empty"));
    }
    if !text.contains("://") {
        return Ok(None);
    }
    Url::parse(text).map(Some).map_err(|e| ConnectorError::config(format!("invalid store URL \"{text}\": {e}")))
}

fn bucket(url: &Url) -> Result<&str> {
    url.host_str()
        .filter(|h| !h.is_empty())
        .ok_or_else(|| ConnectorError::config(format!("store URL \"{url}\" names no bucket")))
}

fn scoped(store: impl ObjectStore, prefix: Path) -> Arc<dyn ObjectStore> {
    if prefix.as_ref().is_empty() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, prefix)) }
}

fn local_error(path: &str, e: std::io::Error) -> ConnectorError {
    ConnectorError::config(format!("cannot open folder \"{path}\": {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    #[tokio::test]
    async fn urls_and_plain_paths_open_the_right_store() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("a/b");
        let store = open_store(plain.to_str().unwrap(), &[]).unwrap();
        store.put(&Path::from("x/y"), "1".into()).await.unwrap();
        assert_eq!(std::fs::read(plain.join("x/y")).unwrap(), b"1");
        let url = Url::from_file_path(&plain).unwrap();
        let again = open_store(url.as_str(), &[]).unwrap();
        assert_eq!(again.get(&Path::from("x/y")).await.unwrap().bytes().await.unwrap().as_ref(), b"1");
        let memory = open_store("memory:///p", &[]).unwrap();
        memory.put(&Path::from("k"), "1".into()).await.unwrap();
        assert!(open_store("memory:///p", &[]).unwrap().get(&Path::from("k")).await.is_err());
    }

    #[test]
    fn wrong_urls_are_config_errors() {
        for url in ["", "ftp://x/y", "s3://", "s3:///only/a/path"] {
            let e = open_store(url, &[]).unwrap_err();
            assert_eq!(e.kind, crate::ErrorKind::Config, "{url}");
        }
        let e = open_store("s3://b/p", &[("no_such_key".into(), "1".into())]).unwrap_err();
        assert!(e.message.contains("no_such_key"));
    }
}
