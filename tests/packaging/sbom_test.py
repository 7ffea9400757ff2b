"""The SBOM: valid where SPDX 2.3 says what has to be, and nothing that is linked is missing.

    sbom_test.py SOURCE BUILD
"""
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
PROGRAM = BUILD / "bin/compress"


class Sbom(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "sbom.json"
            subprocess.run([SOURCE / "scripts/sbom", BUILD, "1.2.3", out], check=True,
                           env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
            cls.document = json.loads(out.read_text())

    def test_form(self):
        document = self.document
        self.assertEqual((document["spdxVersion"], document["dataLicense"]), ("SPDX-2.3", "CC0-1.0"))
        self.assertEqual(document["creationInfo"]["created"], "2023-11-14T22:13:20Z")
        self.assertRegex(document["documentNamespace"], r"^https://\S+[0-9a-f]{32}$")
        names = [package["SPDXID"] for package in document["packages"]]
        self.assertEqual(len(names), len(set(names)))
        for package in document["packages"]:
            self.assertRegex(package["SPDXID"], r"^SPDXRef-[A-Za-z0-9.-]+$")
            for key in ("name", "versionInfo", "downloadLocation", "licenseConcluded", "licenseDeclared"):
                self.assertTrue(package[key], package)
        known = {*names, "SPDXRef-DOCUMENT"}
        self.assertEqual({row["relatedSpdxElement"] for row in document["relationships"]}, set(names))
        for row in document["relationships"]:
            self.assertIn(row["spdxElementId"], known)
        checksum = document["packages"][0]["checksums"][0]["checksumValue"]
        self.assertEqual(checksum, hashlib.sha256(PROGRAM.read_bytes()).hexdigest())

    def test_everything_that_is_needed_is_there(self):
        kinds = {row["relatedSpdxElement"]: row["relationshipType"] for row in self.document["relationships"]}
        dynamic = sum(kind == "DYNAMIC_LINK" for kind in kinds.values())
        needed = re.findall(r"NEEDED.*\[(\S+)\]", subprocess.run(["readelf", "-d", PROGRAM], capture_output=True,
                                                                text=True, check=True).stdout)
        # Libraries of one package (libc, libm) count once.
        self.assertGreaterEqual(dynamic, len(needed) - 2)
        onnx = next(package for package in self.document["packages"] if package["name"] == "onnx")
        self.assertRegex(onnx["versionInfo"], r"^\d+\.\d+")
        self.assertEqual(kinds[onnx["SPDXID"]], "STATIC_LINK")
        names = " ".join(package["name"] for package in self.document["packages"])
        for part in ("dnnl", "protobuf", "png", "nlohmann", "cli11", "eigen"):
            self.assertIn(part, names)
        for part in ("catch2", "compress_", "-12-dev"):
            self.assertNotIn(part, names)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
