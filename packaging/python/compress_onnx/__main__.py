"""python -m compress_onnx: the whole command line."""
import sys

from . import CompressError, _core


def main():
    try:
        code = _core.run(sys.argv[1:], {}, False)[0]
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2 if error.code == "usage" else 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
