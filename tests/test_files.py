"""Writes are atomic, and replace only earlier outputs of the same kind."""

import os
import pathlib
import subprocess
import sys

import pytest

from muskie_jax import files
from muskie_jax.errors import UserError, printable
from muskie_jax.files import atomic_write, check_free, denied_path, user_path


def make(path, force=False, text="new", entries=("a",)):
    with atomic_write(path, force, entries) as part:
        part.mkdir()
        (part / "a").write_text(text)


def test_a_folder_is_written_and_replaced(tmp_path):
    make(tmp_path / "deep" / "folder", text="old")
    with pytest.raises(UserError, match="exists: choose another path, or pass --force"):
        make(tmp_path / "deep" / "folder")
    make(tmp_path / "deep" / "folder", force=True)
    assert (tmp_path / "deep" / "folder" / "a").read_text() == "new"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["folder"], "no temporary folder is left"


def test_a_file_or_folder_of_another_kind_is_never_replaced(tmp_path):
    make(tmp_path / "folder")
    (tmp_path / "folder" / "thesis").touch()
    with pytest.raises(UserError, match="is not replaced, because it contains 'thesis'"):
        make(tmp_path / "folder", force=True)
    with pytest.raises(UserError, match="is a folder, and a folder is never replaced by a file"):
        check_free(tmp_path / "folder", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file, and a file is never replaced by a folder"):
        make(tmp_path / "file", force=True)
    with pytest.raises(UserError, match="is a folder, and a folder is never replaced by a file"):
        check_free(pathlib.Path("/"), force=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_an_error_leaves_the_old_folder_in_place(tmp_path, monkeypatch, error, when):
    path = tmp_path / "folder"
    make(path, text="old")
    rename = pathlib.Path.rename

    def fails_at_the_end(self, target):
        if target == path and self.name == "folder":
            raise error("x")
        return rename(self, target)

    if when == "at the end":
        monkeypatch.setattr(pathlib.Path, "rename", fails_at_the_end)
    with pytest.raises(UserError if error is OSError else error), atomic_write(path, True, ("a",)) as part:
        part.mkdir()
        (part / "a").write_text("new")
        if when == "in the middle":
            raise error("x")
    assert (path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


WRITER = """
import pathlib, sys, time
from muskie_jax.files import atomic_write
with atomic_write(pathlib.Path(sys.argv[1]), True, ("a",)) as part:
    part.mkdir()
    print("writes", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_deleted_by_the_next_write(tmp_path):
    path = tmp_path / "folder"
    for _ in range(2):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        try:
            assert writer.stdout and writer.stdout.readline() == "writes\n"
            (left,) = tmp_path.glob(".muskie-*")
            make(tmp_path / "other", force=True)
            make(path, force=True)
            assert left.is_dir(), "its process lives"
        finally:
            writer.kill()
            writer.communicate()
        make(tmp_path / "other", force=True)
        assert left.is_dir(), "of another output"
    make(path, force=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "other"]


def test_the_only_copy_of_an_output_is_not_deleted(tmp_path):
    """A process may be killed between both renames of a folder."""
    path = tmp_path / "folder"
    process = subprocess.Popen(["true"])
    process.wait()
    left = tmp_path / f"{files._temporary_names(path)}{process.pid}-x"
    (left / "old").mkdir(parents=True)
    make(path)
    assert left.is_dir()
    make(path, force=True)
    assert not left.exists(), "a complete output replaced it"


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://b", "file:///tmp/run", "memory://run"])
def test_an_address_is_rejected_as_a_path(address):
    with pytest.raises(UserError, match=f"'{address}' is a URL, but a local path is needed"):
        user_path(address)


def test_a_name_that_is_not_utf8_is_refused():
    with pytest.raises(UserError, match="run_.* has characters that are not UTF-8: rename it"):
        user_path(os.fsdecode(b"run_\xe4"))


def test_the_first_path_that_may_not_be_read_is_found(tmp_path, monkeypatch):
    (tmp_path / "open/closed").mkdir(parents=True)
    (tmp_path / "open/file").write_text("")
    assert denied_path(tmp_path) == "" == denied_path(tmp_path / "missing")
    list_folder = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return list_folder(path)

    with monkeypatch.context() as other_user:  # as root, nothing is denied
        other_user.setattr(os, "scandir", refuse)
        assert denied_path(tmp_path) == str(tmp_path / "open/closed")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("file"))
    assert denied_path(tmp_path) == str(tmp_path / "open/file")


def test_a_home_is_expanded_and_an_unknown_one_is_an_error():
    assert user_path("~") == pathlib.Path.home()
    with pytest.raises(UserError, match="cannot expand '~' in .*: unknown user"):
        user_path("~nobody-of-this-name/x")


def test_messages_are_one_line_without_control_characters():
    assert str(UserError("a\n  b\x1b[2J\udc80")) == "a b\\x1b[2J\\udc80"
    assert printable("Grüße, 東京\n") == "Grüße, 東京\\n"
