"""summary.py DIR: what tools/test did, counted. Fails if anything failed or a part did not run."""
import collections
import glob
import json
import os
import sys
import xml.etree.ElementTree as ET


def unit(path):
    with open(path) as f:
        for line in f:
            t = json.loads(line)
            result = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}.get(t["result"], "failed")
            yield result, t["name"], "the test says so" if result == "skipped" else ""


def integration(path):
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield "failed", name, ""
        elif skip is not None:
            yield "skipped", name, skip.get("message") or ""
        else:
            again = case.find("properties/property[@name='run']") is not None
            yield "passed", name, "again" if again else ""


def vm(path):
    """vm.skipped with a reason, or what pytest wrote in the virtual machine."""
    if path.endswith(".skipped"):
        with open(path) as f:
            yield "skipped", "vm", f.read().strip()
        return
    job = os.path.basename(path).removesuffix(".xml").removeprefix("vm-")
    for result, name, why in integration(path):
        yield result, f"{job}: {name}", why


def fuzz(path):
    with open(path) as f:
        for line in f:
            result, name, *why = line.split(" ", 2)
            yield result, name.strip(), " ".join(why).strip()


def main(results):
    total = collections.Counter()
    reasons = collections.Counter()
    failed = []
    again = []
    print("== summary")
    for part, reader, file in (("unit", unit, "unit.json"), ("integration", integration, "integration.xml"),
                               ("vm", vm, "vm[.-]*"), ("threads", unit, "threads.json"), ("fuzz", fuzz, "fuzz")):
        paths = [p for p in sorted(glob.glob(os.path.join(results, file))) if not p.endswith((".log", ".broken"))]
        if not paths or os.path.exists(os.path.join(results, f"{part}.broken")):
            print(f"{part:12} did not run to its end")
            failed.append(part)
            continue
        count = collections.Counter()
        for result, name, why in (line for path in paths for line in reader(path)):
            count[result] += 1
            if result == "failed":
                failed.append(f"{part}: {name}")
            elif result == "skipped":
                reasons[f"{part}: {why}"] += 1
            elif why == "again":
                again.append(f"{part}: {name}")
        if not count:
            failed.append(f"{part}: nothing ran")
        total += count
        print(f"{part:12} {count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    print(f"{'all':12} {total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    for why, n in sorted(reasons.items()):
        print(f"  skipped {n}: {why}")
    for name in again:
        print(f"  passed at the second try, it had not been patient enough: {name}")
    for name in failed:
        print(f"  failed: {name}")
    return 1 if failed or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
