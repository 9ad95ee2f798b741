//! What other programs fetch (ftp, Hadoop), and whose rights count.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};

use super::{PATIENCE, cached, plain, task, unfinished};
use crate::cluster::{Cluster, Options};
use crate::framework::Framework;
use crate::require;

/// An FTP server that has one file, `/hello`.
fn ftp() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that leaves is no failure.
            std::thread::spawn(move || drop(session(stream)));
        }
    });
    port
}

fn session(mut control: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(control.try_clone()?).lines();
    let mut data = None;
    write!(control, "220 ready\r\n")?;
    for line in lines {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "USER" => write!(control, "331 password\r\n")?,
            "PASS" => write!(control, "230 welcome\r\n")?,
            "PWD" => write!(control, "257 \"/\"\r\n")?,
            "TYPE" | "CWD" => write!(control, "250 fine\r\n")?,
            "EPSV" => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let port = listener.local_addr()?.port();
                write!(control, "229 Entering Extended Passive Mode (|||{port}|)\r\n")?;
                data = Some(listener);
            }
            "SIZE" if rest == "hello" => write!(control, "213 6\r\n")?,
            "RETR" if rest == "hello" => {
                let listener = data.take().expect("EPSV comes first");
                write!(control, "150 it comes\r\n")?;
                listener.accept()?.0.write_all(b"hello\n")?;
                write!(control, "226 done\r\n")?;
            }
            "SIZE" | "RETR" => write!(control, "550 no such file\r\n")?,
            "QUIT" => return write!(control, "221 bye\r\n"),
            _ => write!(control, "502 what?\r\n")?,
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_fetch_what_we_do_not_know() {
    require!(root, cgroup, program_curl);
    let home = crate::support::TempDir::new("fetch-hadoop");
    std::fs::create_dir(home.path().join("bin")).expect("mkdir");
    let client = home.path().join("bin/hadoop");
    let script = "#!/bin/sh
[ \"$1 $2\" = 'fs -copyToLocal' ] || exit 9
case $3 in */none) echo \"copyToLocal: '$3': No such file\" >&2; exit 1;; esac
echo \"content of $3\" > \"$4\"\n";
    std::fs::write(&client, script).expect("write");
    std::fs::set_permissions(&client, PermissionsExt::from_mode(0o755)).expect("chmod");
    let flag = format!("--hadoop_home={}", home.path().display());
    let cluster = Cluster::start("fetchprograms", Options::default().agent(&[&flag]));
    let mut framework = Framework::subscribe(&cluster.master, "fetchprograms").await;
    let server = ftp();
    let hdfs = "test \"$(cat data)\" = 'content of hdfs://node:1/data'";
    let tasks = vec![
        task(
            "ftp",
            "test \"$(cat hello)\" = hello",
            plain(format!("ftp://127.0.0.1:{server}/hello")),
        ),
        task("hdfs", hdfs, plain("hdfs://node:1/data")),
        task("hdfs-cached", hdfs, cached("hdfs://node:1/data")),
    ];
    let wrong = unfinished(&cluster, &mut framework, tasks).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let rows: [(&str, Value, &str); 2] = [
        (
            "no-ftp",
            plain(format!("ftp://127.0.0.1:{server}/none")),
            "'curl' ended with exit status: ",
        ),
        ("no-hdfs", plain("hdfs://node/none"), "copyToLocal: 'hdfs://node/none': No such file"),
    ];
    for (name, uris, expected) in rows {
        let end = framework.run(task(name, "true", uris), PATIENCE).await;
        let message = end["message"].as_str().unwrap_or("");
        assert!(message.contains(expected), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_tasks_user_count() {
    require!(root, cgroup);
    let dir = crate::support::TempDir::new("fetch-user");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    for (name, mode) in [("open", 0o644), ("closed", 0o600), ("tool", 0o755)] {
        let path = dir.path().join(name);
        std::fs::write(&path, "#!/bin/sh\n").expect("write");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("chmod");
    }
    let cluster = Cluster::start("fetchuser", Options::default());
    let mut framework = Framework::subscribe(&cluster.master, "fetchuser").await;
    let of_nobody = |name: &str, line: &str, uris: Value| {
        let mut task = task(name, line, uris);
        task["command"]["user"] = json!("nobody");
        task
    };
    let at = |name: &str| dir.path().join(name).display().to_string();
    let tasks = vec![
        of_nobody("open", "test -O open && test -O stderr", plain(at("open"))),
        of_nobody("cached", "test -O open", cached(at("open"))),
        task("root", "test -s closed && test $(stat -c %a closed) = 600", cached(at("closed"))),
        // What may be executed may be from the cache as well.
        of_nobody("tool", "./tool", plain(at("tool"))),
        of_nobody("cached-tool", "./tool", cached(at("tool"))),
    ];
    let wrong = unfinished(&cluster, &mut framework, tasks).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // It may no more: not the copy that is there either.
    std::fs::set_permissions(at("tool"), PermissionsExt::from_mode(0o644)).expect("chmod");
    let again = vec![of_nobody("no-tool", "test ! -x tool", cached(at("tool")))];
    let wrong = unfinished(&cluster, &mut framework, again).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Cached for nobody, but not theirs to change.
    let kept = std::fs::read_dir(cluster.dir.path().join("fetch/nobody")).expect("cached");
    for entry in kept {
        let data = entry.expect("an entry").metadata().expect("there");
        assert_eq!((data.uid(), data.mode() & 0o077), (0, 0));
    }
    for (name, uris) in [("closed", plain(at("closed"))), ("closed-cached", cached(at("closed")))] {
        let end = framework.run(of_nobody(name, "true", uris), PATIENCE).await;
        let message = end["message"].as_str().unwrap_or("");
        assert!(message.contains("Permission denied"), "{end}");
    }
}
