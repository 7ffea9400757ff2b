"""Writes ONNX's node conformance cases: FOLDER/CASE/model.onnx, test_data_set_0/{input,output}_N.pb.

Needs the onnx package. Cases whose inputs or outputs are no tensors (sequences, optionals) are left
out.
"""

import argparse
import pathlib
import shutil
import sys
import warnings


def write_case(folder, case):
    import onnx
    from onnx import numpy_helper

    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    for kind, arrays, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
        for number, (array, info) in enumerate(zip(arrays, infos)):
            if isinstance(array, onnx.TensorProto):
                tensor = array
            else:
                tensor = numpy_helper.from_array(array, info.name)
            tensor.name = info.name
            (data / f"{kind}_{number}.pb").write_bytes(tensor.SerializeToString())
    # The runner's tolerance where the case states none.
    rtol = 1e-3 if case.rtol is None else case.rtol
    atol = 1e-7 if case.atol is None else case.atol
    (folder / "bound").write_text(f"rtol {rtol}\natol {atol}\n")
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())


def is_plain(case):
    import numpy as np
    import onnx

    values = [v for group in case.data_sets[0] for v in group]
    tensors = all(isinstance(v, (np.ndarray, np.generic, onnx.TensorProto)) for v in values)
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--keep", action="store_true", help="do nothing where the folder is there")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.keep and folder.exists():
        return
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    written = 0
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets or not is_plain(case):
            continue
        try:
            write_case(partial / case.name, case)
            written += 1
        except (TypeError, ValueError, AttributeError) as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            shutil.rmtree(partial / case.name, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    print(f"{written} cases in {folder}")


if __name__ == "__main__":
    main()
