"""Where compiled programs are kept."""

import jax
import pytest

from cvjax.workflow.training import enable_compilation_cache


@pytest.mark.parametrize("own", [None, "/somewhere/else"])
def test_jaxs_own_setting_comes_first(monkeypatch, tmp_path, own):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = [f"jax_{name}" for name in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs",
                                        "persistent_cache_min_entry_size_bytes")]
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update("jax_compilation_cache_dir", own)
        enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == (own or str(tmp_path / "cvjax" / "xla"))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
