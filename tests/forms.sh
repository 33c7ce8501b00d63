#!/usr/bin/env bash
# The tests in the forms in which dnexport is installed elsewhere, one after another, before a release:
#
#   bash tests/forms.sh [without-openvino] [without-tensorrt-rtx] [vnni-256] [lowest]
#
# without-…  the package is not installed
# vnni-256   OpenVINO computes as on a processor with AVX-512 and VNNI, but without AMX and bfloat16
# lowest     the lowest versions that pyproject.toml allows; of PyTorch the one that constraints.txt names, since
#            PyPI's others bring CUDA
#
# Each form but vnni-256 has an environment of its own below engines/built/forms. The tests that look at times are left
# out; TESTS names some folders of tests where not all are wanted. The last lines say what each form passed and skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive CI=true

forms=("${@:-without-openvino without-tensorrt-rtx vnni-256 lowest}")
read -ra forms <<<"${forms[*]}"
folder=engines/built/forms
mkdir -p "$folder"

environment() { # NAME: a new environment, its Python
  python3 -m venv --clear "$folder/$1"
  echo "$folder/$1/bin/python"
}

installed() { # PYTHON: all that the tests need
  "$1" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[host,cpu,train,dev]'
}

tested() { # FORM PYTHON [PYTEST ARGUMENT …]: the tests, whose outcome goes into a file
  local form=$1 python=$2
  shift 2
  # shellcheck disable=SC2086 # TESTS are several words
  "$python" -m pytest --numprocesses 2 --dist loadfile -p no:cacheprovider "$@" ${TESTS:-tests} 2>&1 | tee "$folder/$form.log" | tail -n 40 ||
    failed+=("$form")
}

failed=()
for form in "${forms[@]}"; do
  echo "== $form"
  case $form in
    without-openvino)
      python=$(environment "$form")
      installed "$python"
      "$python" -m pip uninstall --quiet --yes openvino
      DNEXPORT_WITHOUT="openvino:cpu" tested "$form" "$python" -m "not alone"
      ;;
    without-tensorrt-rtx)
      python=$(environment "$form")
      installed "$python"
      "$python" -m pip freeze | grep -i '^tensorrt' | cut -d= -f1 | xargs "$python" -m pip uninstall --quiet --yes
      DNEXPORT_WITHOUT="tensorrt-rtx" tested "$form" "$python" -m "not alone"
      ;;
    vnni-256)
      ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI tested "$form" .venv/bin/python -m "instructions"
      ;;
    lowest)
      python=$(environment "$form")
      "$python" -m pip install --quiet --disable-pip-version-check uv
      "$python" -m uv pip install --quiet --python "$python" --resolution lowest-direct \
        "$(grep '^torch==' constraints.txt)" --editable '.[host,cpu,train]'
      "$python" -m pip freeze --exclude-editable >"$folder/lowest.txt"
      "$python" -m pip install --quiet --disable-pip-version-check --constraint "$folder/lowest.txt" --editable '.[dev]'
      tested "$form" "$python" -m "not alone"
      ;;
    *)
      echo "no such form: $form" >&2
      exit 2
      ;;
  esac
done

for form in "${forms[@]}"; do
  echo "$form: $(tail -n 1 "$folder/$form.log")"
  grep '^SKIPPED' "$folder/$form.log" || true
done
test ${#failed[@]} -eq 0
