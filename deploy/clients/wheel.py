"""Packs generated Python code into a wheel: wheel.py STAGE VERSION OUT.

A wheel is a zip with three files of metadata; made by hand, it is the same bytes from the same
sources and needs no build back end.
"""
import base64
import hashlib
import pathlib
import sys
import zipfile

METADATA = """Metadata-Version: 2.1
Name: graft-client
Version: {version}
Summary: Generated gRPC client of the Graft fine-tuning platform
Requires-Python: >=3.9
Requires-Dist: grpcio >=1.51
Requires-Dist: protobuf >=3.21.12
Requires-Dist: googleapis-common-protos >=1.56
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: graft\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def main(stage: pathlib.Path, version: str, out: pathlib.Path) -> None:
    info = f"graft_client-{version}.dist-info"
    files = {p.relative_to(stage).as_posix(): p.read_bytes() for p in sorted(stage.rglob("*.py"))}
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    target = out / f"graft_client-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    print(target)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
