//! What is shipped besides the program: manifests, the compose file, units. Their promises are asserted on the YAML as
//! rendered; that it is what the chart renders is checked by `deploy/kubernetes/render.py --check`, where Helm's engine is
//! installed, and by the chart's digest in the file's head everywhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// The objects of the rendered manifests.
fn objects() -> Vec<Value> {
    let text = read("kubernetes/sealane.yaml");
    let documents = text.split("\n---\n").map(|document| serde_saphyr::from_str::<Value>(document).expect("YAML"));
    documents.filter(|document| !document.is_null()).collect()
}

fn find(kind: &str, name: &str) -> Value {
    let is = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects().into_iter().find(is).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn pod(kind: &str, name: &str) -> Value {
    let object = find(kind, name);
    match kind {
        "CronJob" => object["spec"]["jobTemplate"]["spec"]["template"]["spec"].clone(),
        _ => object["spec"]["template"]["spec"].clone(),
    }
}

fn container(pod: &Value, name: &str) -> Value {
    let all = pod["containers"].as_array().expect("containers");
    all.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}")).clone()
}

fn args(container: &Value) -> Vec<String> {
    container["args"].as_array().expect("args").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_manifests_are_of_this_chart() {
    let mut files = vec![deploy("helm/sealane/Chart.yaml"), deploy("helm/sealane/values.yaml")];
    let templates = std::fs::read_dir(deploy("helm/sealane/templates")).expect("templates");
    let mut more: Vec<PathBuf> = templates.map(|entry| entry.expect("an entry").path()).collect();
    more.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    more.sort();
    files.extend(more);
    let mut whole = Sha256::new();
    for file in files {
        let inside = file.strip_prefix(deploy("helm/sealane")).expect("below the chart").display().to_string();
        whole.update(inside.as_bytes());
        whole.update(b"\0");
        whole.update(std::fs::read(&file).expect("a file"));
        whole.update(b"\0");
    }
    let mut digest = String::new();
    for byte in whole.finalize() {
        let _ = write!(digest, "{byte:02x}");
    }
    let is_current = read("kubernetes/sealane.yaml").contains(&format!("# chart: sha256:{digest}\n"));
    assert!(is_current, "the chart has changed: run deploy/kubernetes/render.py --write (pip install helm-python-sdk)");
}

#[test]
fn an_edge_pod_is_drained_before_it_stops_and_two_never_want_the_same_ports() {
    let daemon = find("DaemonSet", "sealane-edge");
    let strategy = &daemon["spec"]["updateStrategy"];
    assert_eq!(*strategy, json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 } }));
    let pod = pod("DaemonSet", "sealane-edge");
    assert_eq!(pod["terminationGracePeriodSeconds"], 75);
    assert_eq!(pod["hostNetwork"], true);
    let proxy = container(&pod, "proxy");
    assert_eq!(
        proxy["lifecycle"]["preStop"]["exec"]["command"],
        json!(["/usr/bin/sealane", "drain", "--timeout", "60s"]),
        "shorter than the grace period"
    );
    assert_eq!(proxy["livenessProbe"]["httpGet"]["path"], "/healthz");
    assert_eq!(proxy["readinessProbe"]["httpGet"]["path"], "/ready");
    for port in proxy["ports"].as_array().expect("ports") {
        assert_eq!(port["containerPort"], port["hostPort"], "on the host's network they are one");
        assert!(port["hostPort"].as_u64().expect("a port") > 1024, "a user that is not root binds it");
    }
    // They meet at a socket in a volume that both mount.
    let agent = container(&pod, "agent");
    let data = args(&agent).iter().find_map(|arg| arg.strip_prefix("--data=").map(str::to_owned)).expect("--data");
    assert!(args(&proxy).contains(&format!("--agent=unix:{data}/agent.sock")), "{:?}", args(&proxy));
    for container in [&agent, &proxy] {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        assert!(mounts.iter().any(|mount| mount["name"] == "state" && data.starts_with(mount["mountPath"].as_str().expect("a path"))));
    }
    assert_eq!(find("PodDisruptionBudget", "sealane-edge")["spec"]["maxUnavailable"], 1);
}

#[test]
fn no_pod_is_root_writes_to_its_image_or_holds_a_secret_by_value() {
    let pods = [("StatefulSet", "sealane-authority"), ("DaemonSet", "sealane-edge"), ("CronJob", "sealane-backup")];
    for (kind, name) in pods {
        let pod = pod(kind, name);
        let context = &pod["securityContext"];
        assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&json!(true), &json!(65532)), "{kind}");
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{kind}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{kind}");
        for container in pod["containers"].as_array().expect("containers") {
            let name = &container["name"];
            let own = &container["securityContext"];
            assert_eq!(own["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(own["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(own["capabilities"]["drop"], json!(["ALL"]), "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
            for variable in container["env"].as_array().into_iter().flatten() {
                let text = variable.to_string().to_lowercase();
                assert!(!text.contains("token") && !text.contains("password"), "{name}: {text}");
            }
            for arg in args(container) {
                assert!(!arg.starts_with("--token=") && !arg.starts_with("--admin-token"), "{name}: {arg}");
            }
        }
    }
    // Tokens and trust come from Secrets by name.
    let volumes = pod("DaemonSet", "sealane-edge")["volumes"].clone();
    let secret = |volume: &str| {
        let all = volumes.as_array().expect("volumes");
        all.iter().find(|one| one["name"] == volume).map(|one| one["secret"]["secretName"].clone())
    };
    assert_eq!((secret("trust"), secret("token")), (Some(json!("sealane-trust")), Some(json!("sealane-agent-token"))));
    assert!(objects().iter().all(|object| object["kind"] != "Secret"), "no Secret is rendered");
}

#[test]
fn the_authority_is_one_keeps_its_disk_and_is_backed_up() {
    let set = find("StatefulSet", "sealane-authority");
    assert_eq!(set["spec"]["replicas"], 1);
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    let authority = container(&pod("StatefulSet", "sealane-authority"), "authority");
    assert_eq!(claim["metadata"]["name"], authority["volumeMounts"][0]["name"]);
    assert!(args(&authority).iter().any(|arg| arg == "--data=/data/authority"));
    assert!(args(&authority).iter().any(|arg| arg.starts_with("--tls-name=")), "beyond loopback it wants TLS");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(authority[probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
    }
    let job = find("CronJob", "sealane-backup");
    assert_eq!(job["spec"]["concurrencyPolicy"], "Forbid");
    let backup = pod("CronJob", "sealane-backup");
    let command = args(&container(&backup, "backup"));
    assert_eq!(command[..2], ["authority", "backup"]);
    let claims: Vec<&str> = backup["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
        .collect();
    assert_eq!(claims, ["data-sealane-authority-0", "sealane-backup"]);
    let keep = find("PersistentVolumeClaim", "sealane-backup");
    assert_eq!(keep["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    let policy = find("NetworkPolicy", "sealane-authority");
    assert_eq!(
        (&policy["spec"]["policyTypes"], &policy["spec"]["egress"]),
        (&json!(["Ingress", "Egress"]), &json!([]))
    );
    assert!(read("helm/sealane/templates/NOTES.txt").starts_with("Losing the authority drops no request"));
}

#[test]
fn every_command_line_of_the_manifests_is_one_that_the_program_knows() {
    let mut seen = 0;
    for object in objects() {
        let kind = object["kind"].as_str().unwrap_or_default();
        if !["StatefulSet", "DaemonSet", "CronJob"].contains(&kind) {
            continue;
        }
        let name = object["metadata"]["name"].as_str().expect("a name");
        for container in pod(kind, name)["containers"].as_array().expect("containers") {
            knows(&args(container));
            if let Some(command) = container["lifecycle"]["preStop"]["exec"]["command"].as_array() {
                let words: Vec<String> = command.iter().skip(1).filter_map(Value::as_str).map(str::to_owned).collect();
                knows(&words);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
    let compose: Value = serde_saphyr::from_str(&read("compose/compose.yaml")).expect("YAML");
    for (name, service) in compose["services"].as_object().expect("services") {
        let words = |value: &Value| {
            let all = value.as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<String>>()
        };
        let image = service["image"].as_str().unwrap_or_default();
        if image.starts_with("sealane:") {
            knows(&words(&service["command"]));
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
            assert_eq!(service["stop_grace_period"], "75s", "{name}");
        } else {
            assert!(image.contains(':') && !image.ends_with(":latest"), "{name} is pinned: {image}");
            assert!(service["profiles"].is_array(), "{name} is optional");
        }
        for port in words(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} listens on loopback only: {port}");
        }
    }
    for name in ["config.yaml", "bad.yaml"].iter().filter(|name| deploy("compose").join(name).exists()) {
        assert!(!read(&format!("compose/{name}")).is_empty());
    }
}

/// What only other values than the defaults render: each flag is looked up, since nothing here renders a chart.
#[test]
fn every_flag_of_the_charts_templates_is_one_that_the_program_knows() {
    let program = sealane_cli::args::command();
    let flags = |role: &str| {
        let command = program.find_subcommand(role).unwrap_or_else(|| panic!("no command {role}"));
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut seen = 0;
    for template in ["authority", "backup", "edge", "agent", "proxy"] {
        let text = read(&format!("helm/sealane/templates/{template}.yaml"));
        let mut role = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(word) = line.strip_prefix("- ").filter(|word| ["authority", "agent", "proxy"].contains(word)) {
                word.clone_into(&mut role);
            }
            let Some(flag) = line.strip_prefix("- --") else { continue };
            let flag = flag.split(['=', ' ']).next().unwrap_or_default();
            let is_of_backup = template == "backup";
            assert!(is_of_backup || flags(&role).iter().any(|known| known == flag), "{template}: {role} --{flag}");
            seen += 1;
        }
    }
    assert!(seen > 30, "templates have flags: {seen}");
}

#[test]
fn every_unit_starts_what_the_program_knows_with_what_it_needs() {
    let mut units = 0;
    for role in ["sealane", "sealane-authority", "sealane-agent", "sealane-proxy"] {
        units += 1;
        let unit = read(&format!("systemd/{role}.service"));
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned));
        let command = value("ExecStart").expect("ExecStart");
        let mut words: Vec<String> = command.split(' ').skip(1).map(str::to_owned).collect();
        // Options from the environment file, as the flags that they stand for.
        if let Some(file) = value("EnvironmentFile") {
            let name = Path::new(&file).file_name().expect("a name").to_string_lossy().into_owned();
            for line in read(&format!("systemd/{name}")).lines().filter(|line| line.starts_with("SEALANE_")) {
                let (variable, value) = line.split_once('=').expect("a variable");
                words.push(format!("--{}={value}", variable["SEALANE_".len()..].to_lowercase().replace('_', "-")));
            }
        }
        knows(&words);
        let kind = value("Type").expect("Type");
        assert!(kind.starts_with("notify"), "{role}: {kind}");
        for key in ["WatchdogSec", "TimeoutStopSec", "NoNewPrivileges", "ProtectSystem"] {
            assert!(value(key).is_some(), "{role} has {key}");
        }
        assert!(!unit.contains("User=root"));
    }
    assert_eq!(units, 4);
    assert!(read("systemd/sealane.socket").contains("ListenStream="));
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_where_it_is_installed() {
    let folder = tempfile::tempdir().expect("a directory");
    let mut units = Vec::new();
    for entry in std::fs::read_dir(deploy("systemd")).expect("the units") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.ends_with(".env") {
            let unit =
                read(&format!("systemd/{name}")).replace("/usr/bin/sealane", &crate::program().display().to_string());
            std::fs::write(folder.path().join(&name), unit).expect("a unit");
            units.push(name);
        }
    }
    let verify = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(units.iter().map(|name| folder.path().join(name)))
        .output();
    let Ok(verified) = verify else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // What it says of other units of this machine is not ours; a type that it is too old for leaves the line before in force.
    let ours = said.lines().filter(|line| line.contains("sealane") && !line.ends_with("ignoring: notify-reload"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[track_caller]
fn knows(words: &[String]) {
    let line = std::iter::once("sealane").chain(words.iter().map(String::as_str));
    if let Err(error) = sealane_cli::args::command().try_get_matches_from(line) {
        panic!("{words:?}: {error}");
    }
}

#[test]
fn the_image_is_small_has_no_shell_and_no_root() {
    let file = read("docker/Dockerfile");
    let stages: Vec<&str> = file.lines().filter(|line| line.starts_with("FROM ")).collect();
    assert_eq!(stages.len(), 2, "built in one image, shipped in another: {stages:?}");
    assert!(stages[1].contains("distroless") && stages[1].contains("nonroot"), "{}", stages[1]);
    assert!(file.contains("USER 65532:65532") && file.contains("--locked"), "{file}");
    let workspace = std::fs::read_to_string(deploy("../Cargo.toml")).expect("the workspace");
    let version =
        workspace.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version").trim_matches('"');
    assert!(
        stages[0].contains(&format!("rust:{version}")),
        "{} is of the toolchain that Cargo.toml asks for, {version}",
        stages[0]
    );
}

#[test]
fn the_build_context_of_the_image_has_every_crate() {
    let workspace = std::fs::read_to_string(deploy("../Cargo.toml")).expect("the workspace");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).expect("members");
    let members: Vec<String> = serde_json::from_str(members).expect("a list");
    let file = read("docker/Dockerfile");
    let copies: Vec<&str> = file.lines().filter_map(|line| line.strip_prefix("COPY ")).collect();
    let ignored = std::fs::read_to_string(deploy("../.dockerignore")).expect("what is left out");
    let ignored: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    for member in members {
        let is_copied = copies.iter().any(|copy| *copy == ". ." || copy.split(' ').any(|word| word == member));
        assert!(is_copied, "the Dockerfile copies {member}");
        assert!(!ignored.contains(&member.as_str()), ".dockerignore leaves {member} out");
    }
    for large in ["target", ".git", "fuzz/target", "deploy/compose/state"] {
        assert!(ignored.contains(&large), ".dockerignore leaves {large} out");
    }
    assert!(workspace.contains("[profile.dist]") && file.contains("--profile dist"), "built as releases are");
}

/// `deploy/release.sh` with a program that is built already.
fn release(out: &Path) -> String {
    let binary = out.join("binary");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", crate::program().display());
    std::fs::create_dir_all(out).expect("a directory");
    std::fs::write(&binary, script).expect("a program");
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&binary, mode).expect("a program");
    let made = std::process::Command::new("bash")
        .arg(deploy("release.sh"))
        .arg(out)
        .env("BINARY", &binary)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{said}\n{}", String::from_utf8_lossy(&made.stderr));
    said.lines().last().expect("where it is").to_owned()
}

#[test]
fn a_release_holds_everything_with_checksums_and_comes_out_the_same_twice() {
    let folder = tempfile::tempdir().expect("a directory");
    let archive = release(&folder.path().join("out"));
    let first = std::fs::read(&archive).expect("the archive");
    let check = |directory: &Path, list: &str| {
        let checked =
            std::process::Command::new("sha256sum").args(["--check", "--quiet", list]).current_dir(directory).output();
        let checked = checked.expect("sha256sum");
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    };
    let name = Path::new(&archive).file_name().expect("a name").to_string_lossy().into_owned();
    check(&folder.path().join("out"), &format!("{name}.sha256"));
    let stage = PathBuf::from(archive.trim_end_matches(".tar.gz"));
    check(&stage, "SHA256SUMS");
    let inside = [
        "sealane",
        "completions/sealane.bash",
        "completions/sealane.zsh",
        "completions/sealane.fish",
        "man/sealane.1",
        "man/sealane-rollout-watch.1",
        "systemd/sealane.service",
        "monitoring/alerts.yaml",
        "LICENSE",
    ];
    for part in inside {
        let length = std::fs::metadata(stage.join(part)).unwrap_or_else(|error| panic!("{part}: {error}")).len();
        assert!(length > 0, "{part} is empty");
    }
    // In the same place, since what was packed there names its path.
    std::fs::remove_dir_all(folder.path().join("out")).expect("to begin again");
    let again = release(&folder.path().join("out"));
    assert!(std::fs::read(again).expect("the archive") == first, "the same commit gives the same bytes");
}
