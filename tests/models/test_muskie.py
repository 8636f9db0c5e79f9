"""Properties of Muskie that follow from its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from muskie_jax.buckets import Bucket
from muskie_jax.models.attention import Attention, attention_map
from muskie_jax.models.layers import AlternatingBlock
from muskie_jax.models.muskie import REMAT, VARIANTS, build_model, patchify, unpatchify
from muskie_jax.models.rope import patch_positions, rotate, rotation_table
from muskie_jax.perf.flops import forward_flops

VIEWS, HEIGHT, WIDTH, PATCHES = 3, 32, 48, 6


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (2, VIEWS, HEIGHT, WIDTH, 3), minval=-1)


@pytest.fixture(scope="module")
def mask():
    mask = jax.random.bernoulli(jax.random.key(2), 0.5, (2, VIEWS, PATCHES))
    return mask.at[:, 0].set(False)


@pytest.fixture(scope="module")
def params(images, mask):
    params = build_model("nano").init(jax.random.key(0), images, mask)["params"]
    # The initial mask token, zeros, would hide errors that scale it.
    return params | {"mask_token": jax.random.normal(jax.random.key(3), params["mask_token"].shape)}


def run(params, images, mask, **options):
    requests = {key: options.pop(key) for key in ("return_tokens", "return_attention") if key in options}
    model = build_model("nano", **options)
    return jax.jit(lambda p, x, m: model.apply({"params": p}, x, m, **requests))(params, images, mask)


def test_hidden_pixels_cannot_influence_the_prediction(params, images, mask):
    hidden = np.asarray(unpatchify(jnp.repeat(mask[..., None], 768, -1), (2, 3), 16))
    changed = jnp.where(hidden, -images, images)
    ours, other = run(params, images, mask), run(params, changed, mask)
    np.testing.assert_array_equal(ours.pred, other.pred)
    np.testing.assert_array_equal(ours.conf, other.conf)
    visible = run(params, jnp.where(hidden, images, -images), mask)
    assert np.abs(visible.pred - ours.pred).max() > 1e-3


def test_permuting_views_permutes_the_output(params, images, mask):
    order = np.array([2, 0, 1])
    ours = run(params, images, mask).pred[:, order]
    permuted = run(params, images[:, order], mask[:, order]).pred
    np.testing.assert_allclose(ours, permuted, atol=2e-5)


def test_learned_view_embedding_distinguishes_views(params, images, mask):
    options = {"view_embed": "learned", "max_views": VIEWS}
    table = jax.random.normal(jax.random.key(5), (VIEWS, 48))
    params = params | {"view_embedding": table}
    order = np.array([2, 0, 1])
    ours = run(params, images, mask, **options).pred[:, order]
    permuted = run(params, images[:, order], mask[:, order], **options).pred
    assert np.abs(ours - permuted).max() > 1e-2
    with pytest.raises(ValueError, match="max_views=2"):
        short = params | {"view_embedding": table[:2]}
        run(short, images, mask, view_embed="learned", max_views=2)


def influence(function, x):
    """Whether each view of the output depends on each view of the input (B, V, T, d): bool (V, V)."""
    flat = lambda y: function(y.reshape(1, -1, y.shape[-1]))[0].reshape(y.shape).sum((0, 2, 3))
    jacobian = jax.jit(jax.jacobian(flat))(x)  # (V, B, V, T, d)
    return np.abs(jacobian).max((1, 3, 4)) > 1e-7


def test_frame_halves_do_not_mix_views_and_global_halves_do(params):
    tokens = jax.random.normal(jax.random.key(4), (1, VIEWS, 5, 48))
    table = rotation_table(patch_positions((1, 1), 4), 12)
    block = AlternatingBlock(4, jnp.float32, Attention("xla")).bind({"params": params["block_0"]})
    assert influence(lambda x: block(x, table), tokens).all()
    # With parameters of zero, the global half adds nothing.
    zeros = jax.tree.map(jnp.zeros_like, params["block_0"]["global"])
    frame_only = AlternatingBlock(4, jnp.float32, Attention("xla")).bind(
        {"params": {"frame": params["block_0"]["frame"], "global": zeros}}
    )
    np.testing.assert_array_equal(
        influence(lambda x: frame_only(x, table), tokens), np.eye(VIEWS, dtype=bool)
    )


def loss_and_gradients(params, images, mask, **options):
    model = build_model("nano", **options)

    @jax.jit
    @jax.value_and_grad
    def evaluate(params):
        output = model.apply({"params": params}, images, mask, return_tokens=True)
        return (output.pred**2).mean() + output.conf.mean() + (output.tokens[0] ** 2).mean()

    return evaluate(params)


@pytest.fixture(scope="module")
def plain_loss_and_gradients(params, images, mask):
    return loss_and_gradients(params, images, mask)


@pytest.mark.parametrize(
    "options",
    [
        {"remat": "elementwise"},
        {"remat": "block"},
        {"remat": "full"},
        {"scan_blocks": True},
        {"remat": "block", "scan_blocks": True},
    ],
)
def test_remat_and_scan_do_not_change_results(params, images, mask, plain_loss_and_gradients, options):
    plain, plain_gradients = plain_loss_and_gradients
    other, gradients = loss_and_gradients(params, images, mask, **options)
    np.testing.assert_allclose(plain, other, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max()),
        plain_gradients,
        gradients,
    )


def test_remat_saves_fewer_activations(params, images, mask):
    def saved(**options):
        loss = lambda p: build_model("nano", **options).apply({"params": p}, images, mask).pred.sum()
        residuals = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
        count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
        return count(residuals) - count(params)

    none, elementwise, block, full = (saved(remat=remat) for remat in REMAT)
    assert full < 0.8 * block and block < 0.6 * elementwise and elementwise < 0.8 * none


@pytest.mark.parametrize("scan_blocks", [False, True])
def test_tokens_and_attention_on_request(params, images, mask, scan_blocks):
    plain = run(params, images, mask, scan_blocks=scan_blocks)
    assert plain.tokens == () and plain.attention == ()
    full = run(params, images, mask, scan_blocks=scan_blocks, return_tokens=True, return_attention=True)
    assert [t.shape for t in full.tokens] == 2 * [(2, VIEWS, PATCHES, 48)]
    assert [a.shape for a in full.attention] == 2 * [(2, VIEWS, PATCHES, VIEWS, PATCHES)]
    sums = np.asarray(full.attention[0]).sum((-1, -2))
    assert (sums < 1).all() and (sums > 0.1).all()  # the rest goes to the registers
    np.testing.assert_allclose(full.pred, plain.pred, atol=1e-6)


def test_attention_is_softmax_attention():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 7, 4, 12))
    logits = np.einsum("nqhd,nkhd->nhqk", query, key) / np.sqrt(12)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("nhqk,nkhd->nqhd", weights, value)
    attended = Attention()(*(x[:, None] for x in (query, key, value)), across_views=False)
    np.testing.assert_allclose(attended[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(attention_map(query, key), weights.mean(1), atol=1e-6)
    with pytest.raises(ValueError, match="is not a valid value"):
        Attention("fast")
    with pytest.raises(ValueError, match="'cudnn' needs a GPU, and this is a CPU"):
        Attention("cudnn")


def test_rope_depends_on_relative_positions_only():
    def logit(at, other):
        table = rotation_table(np.array([at, other]), 16)
        q, k = jax.random.normal(jax.random.key(0), (2, 16))
        qkv = jnp.stack([q, k, q])[None, :, None]  # (1, 3, heads, D)
        queries, keys, values = rotate(jnp.broadcast_to(qkv, (2, 3, 1, 16)), table)
        np.testing.assert_array_equal(values[:, 0], jnp.stack([q, q]))
        return float(queries[0, 0] @ keys[1, 0])

    assert logit((3, 5), (1, 2)) == pytest.approx(logit((7, 6), (5, 3)), abs=1e-5)
    assert logit((3, 5), (1, 2)) != pytest.approx(logit((5, 3), (2, 1)), abs=1e-3)
    positions = patch_positions((2, 3), 4)
    assert positions[:5].tolist() == [[0, 0]] * 4 + [[1, 1]] and positions[-1].tolist() == [2, 3]


def test_rope_base_sets_the_longest_wavelength():
    angles = lambda base: np.arccos(rotation_table(np.array([[0, 1]]), 64, base=base)[0][0, 32:48])
    np.testing.assert_allclose(angles(100.0), 100.0 ** (-np.arange(16) / 16), rtol=1e-4)
    np.testing.assert_allclose(angles(10.0), 10.0 ** (-np.arange(16) / 16), rtol=1e-4)
    images = jax.random.uniform(jax.random.key(0), (1, 2, 32, 48, 3))
    model = build_model("nano")
    params = model.init(jax.random.key(1), images)
    other = build_model("nano", rope_base=10.0)
    pred = [
        each.apply(params, images).pred for each in (model, build_model("nano", rope_base=100.0), other)
    ]
    np.testing.assert_array_equal(pred[0], pred[1])
    assert np.abs(pred[0] - pred[2]).max() > 1e-3


def test_patchify_orders_channels_first_and_is_inverted():
    image = np.arange(32 * 48 * 3).reshape(32, 48, 3)
    patches = np.asarray(patchify(jnp.asarray(image), 16))
    np.testing.assert_array_equal(patches[4].reshape(3, 16, 16), image[16:32, 16:32].transpose(2, 0, 1))
    np.testing.assert_array_equal(unpatchify(patches, (2, 3), 16), image)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_of_every_variant(name):
    variant = VARIANTS[name]
    images = jnp.zeros((1, 2, 32, 32, 3))
    shapes = jax.eval_shape(build_model(name).init, jax.random.key(0), images)["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    width = variant.width
    layer = 12 * width**2 + 13 * width
    expected = 2 * variant.depth * layer + 769 * width + 5 * width + 2 * width + (width + 1) * 1536
    assert count == expected


def test_initial_values():
    """Linear layers are uniform in ±1/sqrt(fan_in), biases included, as PyTorch's are; or follow Xavier."""
    image = jnp.zeros((1, 1, 16, 16, 3))
    draw = lambda **options: jax.jit(build_model("nano", **options).init)(jax.random.key(0), image)
    params = traverse_util.flatten_dict(draw()["params"], sep="/")
    xavier = traverse_util.flatten_dict(draw(initial_values="xavier")["params"], sep="/")
    kernels = [name.removesuffix("/kernel") for name in params if name.endswith("/kernel")]
    assert len(kernels) == 2 + 2 * 2 * 4
    for name in kernels:
        fan_in, fan_out = params[f"{name}/kernel"].shape
        for values in (params[f"{name}/kernel"], params[f"{name}/bias"]):
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(values).max() <= bound
            assert np.std(values) == pytest.approx(bound / np.sqrt(3), rel=0.25), name
            assert np.mean(values) == pytest.approx(0, abs=0.25 * bound)
        limit = np.sqrt(6 / (fan_in + fan_out))
        assert np.std(xavier[f"{name}/kernel"]) == pytest.approx(limit / np.sqrt(3), rel=0.05)
        assert not xavier[f"{name}/bias"].any()
    norm = params["block_1/global/norm2/scale"], params["block_1/global/norm2/bias"]
    assert (norm[0] == 1).all() and (norm[1] == 0).all()
    assert (params["mask_token"] == 0).all()
    assert np.std(params["register_tokens"]) == pytest.approx(1, rel=0.2)


def test_bfloat16_computes_in_bfloat16_from_float32_parameters(params, images, mask):
    full, half = run(params, images, mask), run(params, images, mask, dtype="bfloat16")
    assert half.pred.dtype == jnp.float32
    difference = np.abs(full.pred - half.pred).max()
    assert 1e-5 < difference < 0.1 * np.abs(full.pred).max()


def test_a_float32_residual_stream_is_more_exact(params, images, mask):
    exact = run(params, images, mask, return_tokens=True).tokens
    errors = {}
    for stream in ("float32", "bfloat16"):
        tokens = run(
            params, images, mask, dtype="bfloat16", residual_dtype=stream, return_tokens=True
        ).tokens
        assert all(each.dtype == jnp.dtype(stream) for each in tokens)
        errors[stream] = [np.linalg.norm(np.float32(a) - b) for a, b in zip(tokens, exact)]
    assert all(a < b for a, b in zip(errors["float32"], errors["bfloat16"]))
    # With float32 products, the stream is float32.
    tokens = run(params, images, mask, residual_dtype="bfloat16", return_tokens=True).tokens
    np.testing.assert_array_equal(tokens[-1], exact[-1])


def test_invalid_inputs_raise(params, images, mask):
    model = build_model("nano")
    with pytest.raises(ValueError, match="30x48 is not divisible by the patch size 16"):
        model.apply({"params": params}, images[:, :, :30], mask)
    with pytest.raises(ValueError, match="mask must have shape"):
        model.apply({"params": params}, images, mask[:, :1])
    with pytest.raises(ValueError, match="nano, tiny, small, base, large, huge"):
        build_model("giant")


def test_counted_flops_match_the_compiler():
    model, bucket = build_model("base"), Bucket(96, 96, 4)
    images = jax.ShapeDtypeStruct((1, 4, 96, 96, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)
    compiled = jax.jit(lambda p, x: model.apply(p, x)).lower(params, images).compile()
    compiler_flops = compiled.cost_analysis()["flops"]
    assert forward_flops(model, bucket) == pytest.approx(compiler_flops, rel=0.03)
