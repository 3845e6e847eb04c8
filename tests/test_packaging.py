"""What is installed is what is in the folders, and it works away from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LINKED = ("agents", "fusion", "skills", "cache")


def packages_in_folders() -> set[str]:
    """Every folder with Python files, under the name it is imported by."""
    found = set()
    for top in ("akg_dynamo", *LINKED):
        prefix = top if top == "akg_dynamo" else f"akg_dynamo.{top}"
        for file in (ROOT / top).rglob("*.py"):
            parts = file.relative_to(ROOT / top).parts[:-1]
            if not (top == "akg_dynamo" and parts and parts[0] in LINKED):  # rglob follows no links from Python 3.13 on
                found.add(".".join((prefix, *parts)))
    return found


def test_packages_are_the_folders() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(packages_in_folders())


def test_every_package_has_an_init() -> None:
    folders = {name: folder for name, folder in SETUPTOOLS["package-dir"].items() if name != "akg_dynamo"}
    for package in SETUPTOOLS["packages"]:
        top = next((name for name in folders if package == name or package.startswith(name + ".")), "akg_dynamo")
        folder = SETUPTOOLS["package-dir"][top] + package[len(top) :].replace(".", "/")
        assert (ROOT / folder / "__init__.py").is_file(), package


def test_links_point_at_the_folders() -> None:
    for name in LINKED:
        link = ROOT / "akg_dynamo" / name
        if link.is_symlink():  # a clone without symbolic links has a text file there, and works through package-dir
            assert link.resolve() == ROOT / name


def test_importing_the_package_is_light() -> None:
    """The entry point is imported by anyone who lists backends: it must not pull torch's compiler in by itself."""
    script = "import sys, akg_dynamo; print(sorted({'torch', 'transformers', 'typer', 'triton'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bare_names_are_not_importable() -> None:
    """`agents` and the others must not be found beside `akg_dynamo.agents`, from outside the repository."""
    script = (
        "import importlib.util as u\n"
        f"where = {str(ROOT)!r}\n"
        f"specs = [u.find_spec(name) for name in {LINKED!r}]\n"
        "print([s.name for s in specs if s is not None and s.origin and s.origin.startswith(where)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"  # built elsewhere: setuptools reuses what an earlier build left in build/
    ignored = shutil.ignore_patterns(".venv", ".git", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(copy)]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.conformance
def test_wheel_holds_every_package_and_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in SETUPTOOLS["packages"]:
        assert f"{package.replace('.', '/')}/__init__.py" in names
    for top in ("akg_dynamo", *LINKED):
        for suffix in (".j2", ".h", ".yaml"):
            for file in (ROOT / top).rglob(f"*{suffix}"):
                prefix = Path() if top == "akg_dynamo" else Path("akg_dynamo")
                assert (prefix / file.relative_to(ROOT)).as_posix() in names, file
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", *(f"{n}/" for n in LINKED)))]


@pytest.mark.conformance
def test_wheel_works_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed into an environment that sees this one's libraries but not the repository, it compiles a function."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    script = (
        "import sys\n"
        f"sys.path[:0] = [{str(target)!r}]\n"
        f"sys.path += {libraries!r}\n"
        "import torch, akg_dynamo\n"
        f"assert akg_dynamo.__file__.startswith({str(target)!r}), akg_dynamo.__file__\n"
        "import akg_dynamo.agents.sketch, akg_dynamo.fusion, akg_dynamo.cache\n"
        "f = lambda x: (x * 2 + 1).relu()\n"
        "x = torch.randn(64, 64)\n"
        "torch.testing.assert_close(torch.compile(f, backend='akg', options={'gate': 'correct'})(x), f(x))\n"
        "print('right')\n"
    )
    done = subprocess.run(
        [str(python), "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AKG_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["right"]
