//! Whether the file of `--config` changed.
//!
//! Owns looking at it. Refuses to read it anew: as kube-proxy, the agent ends then, and whoever started it starts it again
//! (behaviours 22.10). Invariant: a file that is away for a moment, as when a ConfigMap is replaced, is no change.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::ConfigFile;

/// Time between two looks. A file of a few kilobytes on a local file system: a look costs next to nothing, and finds what
/// happens behind the symbolic links of a ConfigMap, where events of the file system do not.
const EVERY: Duration = Duration::from_secs(1);

/// Waits until a file says something else than was read.
pub async fn until_changed(file: &ConfigFile) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Ok(text) = tokio::fs::read_to_string(&file.path).await
            && text != file.text
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::Documents;

    #[tokio::test]
    async fn a_replaced_config_map_is_a_change_and_a_missing_or_rewritten_file_is_none() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        fs::write(&old, "a").expect("written");
        let path = place.path().join("config.yaml");
        symlink(&old, &path).expect("a link");
        let file = ConfigFile {
            path: path.clone(),
            text: "a".to_owned(),
            documents: Documents::default(),
        };
        let watch = tokio::spawn(async move { until_changed(&file).await });
        fs::remove_file(&path).expect("removed");
        tokio::time::sleep(EVERY + EVERY / 2).await;
        symlink(&old, &path).expect("a link");
        fs::write(&old, "a").expect("written");
        tokio::time::sleep(EVERY + EVERY / 2).await;
        assert!(!watch.is_finished());
        fs::write(&new, "b").expect("written");
        fs::remove_file(&path).expect("removed");
        symlink(&new, &path).expect("a link");
        tokio::time::timeout(Duration::from_secs(30), watch)
            .await
            .expect("seen")
            .expect("no panic");
    }
}
