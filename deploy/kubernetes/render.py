#!/usr/bin/env python3
"""Renders the chart of deploy/helm/sealane with Helm's own engine, and checks what comes out.

  deploy/kubernetes/render.py --write    write sealane.yaml: the chart with its default values
  deploy/kubernetes/render.py --check    sealane.yaml is what the chart renders; every variant renders, and everything is valid
                                         against the schemas of Kubernetes

The engine is the program `helm`, or the package helm-python-sdk (pip, Python 3.10 or newer); schemas come with the package
kubernetes-validate. What is not installed is skipped and said, with exit code 0.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent / "helm" / "sealane"
RENDERED = HERE / "sealane.yaml"
KUBERNETES = "1.31"

# Every branch of the templates is taken by one of them.
VARIANTS = {
    "default": {},
    "authority alone": {"edge": {"enabled": False}},
    "edge alone": {"authority": {"enabled": False}, "backup": {"enabled": False}, "edge": {"authority": "https://a.example:7443"}},
    "host ports": {"edge": {"hostNetwork": False, "state": {"hostPath": "/var/lib/sealane"}}},
    "deployment": {"edge": {"kind": "Deployment", "replicas": 5, "service": {"annotations": {"a": "b"}}}},
    "an agent for proxies elsewhere": {"agent": {"enabled": True, "region": "eu", "push": ["edge-1.example.com:7445"], "args": ["--log-json"],
                                                 "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
                                       "networkPolicy": {"proxyCIDRs": ["10.1.0.0/16"]}},
    "proxies that attach": {"agent": {"enabled": True}, "proxy": {"enabled": True, "secrets": {"tls": "site-certificate"}}},
    "proxies that poll": {"authority": {"enabled": False}, "backup": {"enabled": False}, "edge": {"enabled": False},
                          "proxy": {"enabled": True, "way": "poll", "url": "https://agent.example.com:7481", "args": ["--threads=2"],
                                    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}}},
    "a proxy that is pushed to": {"proxy": {"enabled": True, "way": "push", "replicas": 1}, "networkPolicy": {"agentCIDRs": ["10.0.0.0/8"]}},
    "proxies of a folder": {"proxy": {"enabled": True, "way": "folder", "url": "https://files.example.com/fleet/", "region": "eu"}},
    "everything": {
        "imagePullSecrets": [{"name": "registry"}],
        "authority": {"tlsNames": ["authority.example.com"], "requireApprovals": 1, "nodeSelector": {"a": "b"},
                      "tolerations": [{"operator": "Exists"}], "storage": {"size": "1Gi", "className": "fast"},
                      "service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
        "backup": {"withKeys": True, "storage": {"size": "1Gi", "className": "slow"}},
        "edge": {"secrets": {"tls": "site-certificate"}, "proxyArgs": ["--threads=4"], "agentArgs": ["--log-json"],
                 "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        "agent": {"enabled": True, "id": "one", "authority": "https://a.example:7443", "storage": {"size": "1Gi", "className": "fast"},
                  "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        "proxy": {"enabled": True, "way": "push", "replicas": 1, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        "networkPolicy": {"agentCIDRs": ["10.0.0.0/8"], "proxyCIDRs": ["10.0.0.0/8"]},
        "monitoring": {"serviceMonitor": True, "podMonitor": True, "prometheusRule": True},
    },
}


def digest() -> str:
    """Of everything that the default rendering depends on; a test without Helm compares it with the header of sealane.yaml."""
    whole = hashlib.sha256()
    files = [CHART / "Chart.yaml", CHART / "values.yaml", *sorted((CHART / "templates").glob("*.yaml"))]
    for path in files:
        whole.update(path.relative_to(CHART).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def engine():
    """Gives a function from values to one text, or None."""
    if shutil.which("helm"):
        def render(values):
            import json
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(values, file)
                file.flush()
                command = ["helm", "template", "sealane", str(CHART), "--namespace", "sealane", "--values", file.name]
                return subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return render
    try:
        import helm_python as helm
    except ImportError:
        return None

    def render(values):
        with helm.Chart.load(str(CHART)) as chart:
            chart.validate_schema(values)
            parts = chart.render(values, name="sealane", namespace="sealane")
        texts = (text for name, text in sorted(parts.items()) if name.endswith(".yaml"))
        return "".join(f"---\n{text.strip()}\n" for text in texts if text.strip())
    return render


def page(text: str) -> str:
    """The rendered manifests as the file holds them."""
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("# Source: ")]
    body = "\n".join(lines).strip().removeprefix("---").strip()
    head = ("# Written by deploy/kubernetes/render.py: deploy/helm/sealane with its default values, as release `sealane` in namespace\n"
            "# `sealane`. Only `image` needs to be edited; the Secrets sealane-trust and sealane-agent-token are made by hand:\n"
            "# docs/how-to/kubernetes.md.\n"
            f"# chart: sha256:{digest()}\n"
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: sealane }\n---\n")
    return head + body + "\n"


def validate(name: str, text: str) -> int:
    """How many objects have been found valid. Kinds of the Prometheus operator have no schema there."""
    import kubernetes_validate
    import yaml
    seen = 0
    for document in filter(None, yaml.safe_load_all(text)):
        if "monitoring.coreos.com" in document["apiVersion"]:
            continue
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = "/".join(map(str, error.path))
            sys.exit(f"{name}: {document['kind']} {document['metadata']['name']}: {where}: {error.message}")
        seen += 1
    return seen


def main() -> None:
    render = engine()
    if sys.argv[1:] == ["--write"]:
        if render is None:
            sys.exit("neither the program helm nor the package helm-python-sdk is installed")
        RENDERED.write_text(page(render({})))
        return
    if sys.argv[1:] != ["--check"]:
        sys.exit(__doc__)
    rendered = {"deploy/kubernetes/sealane.yaml": RENDERED.read_text()}
    if render is None:
        print("skipped: whether the chart renders to deploy/kubernetes/sealane.yaml: neither helm nor helm-python-sdk is installed")
    else:
        for name, values in VARIANTS.items():
            rendered[name] = render(values)
        refused = {"proxy": {"enabled": True, "way": "push", "replicas": 2}}
        try:
            render(refused)
            sys.exit("two replicas behind one name that an agent calls must be refused")
        except Exception as error:  # noqa: BLE001: each engine has its own
            print(f"refused, as it should be: two proxies that are pushed to behind one name ({type(error).__name__})")
        if page(rendered["default"]) != RENDERED.read_text():
            sys.exit("deploy/kubernetes/sealane.yaml is not what the chart renders: run deploy/kubernetes/render.py --write")
        print(f"the chart renders, in {len(VARIANTS)} variants, and deploy/kubernetes/sealane.yaml is its default")
    try:
        import kubernetes_validate, yaml  # noqa: E401,F401
    except ImportError:
        print("skipped: manifests against the schemas of Kubernetes: kubernetes-validate is not installed")
        return
    total = sum(validate(name, text) for name, text in rendered.items())
    print(f"{total} objects are valid for Kubernetes {KUBERNETES}")


if __name__ == "__main__":
    main()
