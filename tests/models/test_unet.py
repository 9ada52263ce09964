"""The score network: its size as published, what it depends on, and what it computes."""

import dataclasses

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jobs import CONF
from omegaconf import OmegaConf

import deis
from models.config import UNetConfig, validate
from models.layers import uniform
from models.layout import stages
from models.training import devices
from models.training.config import ObjectiveConfig, OptimizerConfig
from models.training.step import init_state, make_optimizer, make_train_step
from models.unet import UNet, as_network, init, network_of, num_params, params_of, shapes

pytestmark = pytest.mark.slow

TINY = UNetConfig(
    channels=8,
    multipliers=[1, 2],
    attention_resolutions=[4],
    dropout=0.3,
    head_channels=4,
    num_classes=3,
    image_size=8,
    image_channels=1,
)
X = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
T = jnp.array([3.0, 700.0])
LABEL = jnp.array([0, 2])
net = jax.jit(network_of(TINY).apply)


@pytest.fixture(scope="module")
def params() -> dict:
    """Parameters as after some training: none of them zero, features of about unit size."""
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32), shapes(TINY)
    )


PUBLISHED = {
    "ddpm_cifar10": 35_746_307,
    "ddpm_imagenet32": 35_746_307,
    "ddpmpp_cifar10": 61_804_419,
    "ddpmpp_deep_cifar10": 106_632_579,
    "ncsnpp_cifar10": 62_758_915,
    "ncsnpp_deep_cifar10": 107_587_075,
    "ddpm_celeba64": 78_700_803,
}


def fresh(cfg: UNetConfig) -> dict:
    return init(cfg, jax.random.key(0))


def composed(name: str, **options: object) -> UNetConfig:
    """conf/model/NAME.yaml, with types and options checked."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(UNetConfig), hydra.compose(f"model/{name}").model, options)
        )
    assert isinstance(cfg, UNetConfig)
    validate(cfg)
    return cfg


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_number_of_parameters(name: str) -> None:
    """ddpm as diffusers 0.42.1's UNet2DModel counts for the same options (the first is google/ddpm-cifar10-32),
    the others as score_sde's networks count."""
    cfg = composed(name, image_size=64 if "64" in name else 32, image_channels=3)
    assert num_params(shapes(cfg)) == PUBLISHED[name]


def test_score_sde_s_ddpm_has_attention_once_a_level_going_up() -> None:
    cfg = composed("ddpm_cifar10", image_size=32, image_channels=3, up_attention="last")
    assert num_params(shapes(cfg)) == 35_218_947


def test_a_fresh_network_is_float32_a_function_of_the_key_and_outputs_zero() -> None:
    """The last convolution starts at zero, so the first loss is |eps|^2 = 1."""
    cfg = dataclasses.replace(TINY, multipliers=[1], attention_resolutions=[])
    a, b, c = (init(cfg, jax.random.key(seed)) for seed in (5, 5, 6))
    assert {leaf.dtype for leaf in jax.tree.leaves(a)} == {jnp.dtype("float32")}
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    assert not np.array_equal(a["conv_in"]["kernel"], c["conv_in"]["kernel"])
    np.testing.assert_array_equal(jax.jit(network_of(cfg).apply)(a, X, T, LABEL), np.zeros_like(X))


def test_fresh_parameters_have_ddpm_s_variance_and_share_no_numbers() -> None:
    """Kernels: uniform, of variance 2 / (inputs + outputs); frequencies and labels: normal; the rest 0 and 1."""
    cfg = dataclasses.replace(TINY, channels=64, multipliers=[1], embedding="fourier", fourier_scale=16.0)
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(fresh(cfg))}
    drawn = []
    for name, leaf in found.items():
        values = leaf.ravel()
        if "kernel" in name and values.any():
            most = np.sqrt(6 / (np.prod(leaf.shape[:-2]) * sum(leaf.shape[-2:])))
            assert most * (1 - 5 / np.sqrt(leaf.size)) < np.abs(values).max() <= most, name
            assert np.std(values) == pytest.approx(most / np.sqrt(3), rel=3 / np.sqrt(leaf.size)), name
            drawn.append(values / most)
        elif "kernel" not in name and ("frequency" in name or "embed_label" in name):
            std = 16.0 if "frequency" in name else leaf.shape[-1] ** -0.5
            assert np.std(values) == pytest.approx(std, rel=3 / np.sqrt(leaf.size)), name
            assert np.abs(values).max() > 2 * std, "not cut off, as uniform numbers are"
        else:
            assert set(values) == {float("scale" in name)}, name
    assert len(drawn) > 10
    numbers = np.concatenate(drawn)
    repeated = numbers.size - np.unique(numbers).size
    assert repeated < numbers.size**2 / 2**23, "of 2^23 numbers, twice as often as by chance"


def test_equal_configurations_share_a_network() -> None:
    """A function found again is compiled code found again."""
    assert network_of(dataclasses.replace(TINY)) is network_of(TINY)
    assert network_of(dataclasses.replace(TINY, channels=16)) is not network_of(TINY)


def test_every_parameter_learns(params: dict) -> None:
    grad = jax.jit(jax.grad(lambda p: jnp.sum(net(p, X, T, LABEL) ** 2)))(params)
    still = [jax.tree_util.keystr(path) for path, leaf in jax.tree.leaves_with_path(grad) if not np.any(leaf)]
    assert not still
    assert not np.any(grad["embed_label"]["embedding"][1]), "a class without an image in the batch does not learn"


def test_output_depends_on_time_and_on_nothing_else_in_the_batch(params: dict) -> None:
    y = net(params, X, T, LABEL)
    np.testing.assert_allclose(net(params, X[::-1], T[::-1], LABEL[::-1])[::-1], y, atol=1e-5)
    twice = net(params, jnp.stack([X[0], X[0]]), jnp.full(2, T[0]), jnp.full(2, LABEL[0]))
    np.testing.assert_allclose(twice[0], y[0], atol=1e-5)
    assert np.abs(net(params, X, T + 50.0, LABEL) - y).max() > 1e-3


class StockAttention(nnx.Module):
    """Flax's own attention in the place of `models.layers.Attention`."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.norm = nnx.GroupNorm(channels, num_groups=4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=channels, decode=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        return x + self.attention(self.norm(x).reshape(b, h * w, c)).reshape(x.shape)


def test_a_network_with_flax_s_own_attention_trains() -> None:
    """Any layer of the U-Net can be replaced by a stock nnx layer before it becomes a function of its parameters."""
    rngs = nnx.Rngs(0)
    cfg = dataclasses.replace(TINY, multipliers=[1], attention_resolutions=[], num_classes=0)
    module = UNet(cfg, rngs)
    module.conv_out.kernel[...] = uniform(rngs.params(), module.conv_out.kernel.shape)
    for stage in stages(cfg):
        if stage.attention:
            setattr(module.stages[stage.name], "attention", StockAttention(stage.n_out, rngs))  # noqa: B010
    params = jax.tree.map(np.asarray, params_of(module))
    optimizer = make_optimizer(OptimizerConfig(0.01, 0, False, 0.9, 0.999, 1.0), 10)
    state = init_state(params_of(module), optimizer, jax.random.key(0))
    shardings = devices.shardings(state, devices.mesh(), fsdp=False)
    step = make_train_step(as_network(module), deis.vp_linear(), ObjectiveConfig(), optimizer, 0.9, False, 1, shardings)
    state, metrics = step(state, np.zeros((2, 8, 8, 1), np.uint8), None, None)
    assert np.isfinite(metrics["loss"])
    before, after = (tree["stages"]["middle_0"]["attention"]["attention"] for tree in (params, state.params))
    assert set(after) == {"query", "key", "value", "out"}
    assert all(not np.array_equal(before[name]["kernel"], after[name]["kernel"]) for name in after)


def test_label_matters(params: dict) -> None:
    one, two = net(params, X, T, LABEL), net(params, X, T, jnp.array([0, 1]))
    np.testing.assert_allclose(one[0], two[0], atol=1e-5)
    assert np.abs(one[1] - two[1]).max() > 1e-3
    with pytest.raises(ValueError, match="label"):
        net(params, X, T)
    unconditional = {name: value for name, value in params.items() if name != "embed_label"}
    with pytest.raises(ValueError, match="without classes"):
        network_of(dataclasses.replace(TINY, num_classes=0)).apply(unconditional, X, T, LABEL)


def test_dropout_is_off_without_keys_and_depends_on_an_image_s_own(params: dict) -> None:
    off = net(params, X, T, LABEL)
    np.testing.assert_array_equal(net(params, X, T, LABEL), off)
    keys = jax.random.split(jax.random.key(1))
    on = net(params, X, T, LABEL, keys)
    np.testing.assert_array_equal(net(params, X, T, LABEL, keys), on)
    assert np.abs(on - off).max((1, 2, 3)).min() > 1e-3
    other = net(params, X, T, LABEL, jnp.stack([keys[0], jax.random.key(7)]))
    np.testing.assert_array_equal(other[0], on[0])
    assert np.abs(other[1] - on[1]).max() > 1e-3
    alone = net(params, X[1:], T[1:], LABEL[1:], keys[1:])
    np.testing.assert_allclose(alone, on[1:], atol=1e-5)


def test_bfloat16_agrees_with_float32(params: dict) -> None:
    exact = net(params, X, T, LABEL)
    rough = jax.jit(network_of(dataclasses.replace(TINY, dtype="bfloat16")).apply)(params, X, T, LABEL)
    assert rough.dtype == jnp.float32
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-6 < error < 0.02


@pytest.mark.parametrize(("multipliers", "channels"), [([1], 1), ([1, 2, 2], 3)])
def test_other_depths_and_colours(multipliers: list[int], channels: int) -> None:
    cfg = UNetConfig(channels=8, multipliers=multipliers, image_size=8, image_channels=channels)
    x = jnp.ones((1, 8, 8, channels))
    assert jax.eval_shape(network_of(cfg).apply, shapes(cfg), x, T[:1]).shape == x.shape


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 30, "multipliers": [1, 2, 2]}, "multiple of 4, got 30; use dataset.image_size=28"),
        ({"attention_resolutions": [16]}, r"has 16, but the levels' sizes are \[8, 4\]"),
        ({"head_channels": 3}, "model.head_channels must divide"),
        ({"head_channels": 0}, "model.head_channels"),
        ({"fir": True}, "model.resample=block only"),
        ({"resample": "block", "input_pyramid": True}, "it needs model.fir=true"),
        ({"num_groups": 0}, "model.num_groups must be positive, got 0"),
        ({"fourier_scale": 0.0}, "model.fourier_scale must be positive, got 0"),
        ({"output": "noise"}, "model.output must be one of eps, x_0, v, .* got 'noise'"),
        ({"channels": 7}, "model.channels must be even"),
        ({"multipliers": []}, "every multiplier at least 1"),
        ({"num_blocks": 0}, "model.num_blocks"),
        ({"num_classes": -1}, "model.num_classes"),
        ({"dropout": 1.0}, "model.dropout must be in"),
        ({"dtype": "float16"}, "float32, bfloat16, got 'float16'"),
    ],
)
def test_impossible_networks_are_refused(options: dict, said: str) -> None:
    validate(TINY)
    with pytest.raises(ValueError, match=said):
        validate(dataclasses.replace(TINY, **options))


DDPM_PLUS = dataclasses.replace(TINY, resample="block", up_attention="last", skip_rescale=True)
KINDS = {
    "ddpm++": dataclasses.replace(DDPM_PLUS, class_embedding="before"),
    "ncsn++": dataclasses.replace(DDPM_PLUS, fir=True, input_pyramid=True, embedding="fourier", time="log_sigma"),
    "diffusers' defaults": dataclasses.replace(TINY, downsample_padding=1, freq_shift=0, norm_eps=1e-5),
}


def random_gradient(cfg: UNetConfig) -> dict:
    rng, apply, keys = np.random.default_rng(3), network_of(cfg).apply, jax.random.split(jax.random.key(1))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes(cfg))
    gradient = jax.grad(lambda p: jnp.sum(apply(p, X, T / 999, LABEL, keys) ** 2))
    return jax.jit(gradient)(params)


@pytest.mark.parametrize("cfg", KINDS.values(), ids=KINDS.keys())
def test_every_kind_learns(cfg: UNetConfig) -> None:
    """All parameters but the random frequencies have a gradient."""
    leaves = jax.tree.leaves_with_path(random_gradient(cfg))
    still = [jax.tree_util.keystr(path) for path, leaf in leaves if not np.any(leaf)]
    assert still == (["['fourier']['frequency']"] if cfg.embedding == "fourier" else [])


def test_computing_activations_twice_changes_nothing() -> None:
    once, twice = (
        random_gradient(dataclasses.replace(TINY, multipliers=[1], attention_resolutions=[], remat=remat))
        for remat in (False, True)
    )
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(once))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * scale), once, twice)


def test_patches_halve_every_size_and_see_every_pixel() -> None:
    cfg = dataclasses.replace(
        TINY, patch_size=2, num_classes=0, multipliers=[1, 2], attention_resolutions=[], image_size=16
    )
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes(cfg))
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 1))
    slope = jax.jit(jax.grad(lambda x: network_of(cfg).apply(params, x, T[:1])[0, 5, 9, 0] ** 2))(x)
    assert slope.shape == (1, 16, 16, 1)
    assert jnp.all(slope != 0)
    whole = dataclasses.replace(cfg, patch_size=1)
    assert [stage._replace(size=2 * stage.size, name="") for stage in stages(cfg)] == [
        stage._replace(name="") for stage in stages(whole)
    ]
    with pytest.raises(ValueError, match=r"patches of 2x2 pixels 1 times, so its side must be a multiple of 4"):
        validate(dataclasses.replace(cfg, image_size=14))
