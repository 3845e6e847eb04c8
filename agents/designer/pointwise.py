"""Elementwise operators as formulas over values that have the result's compute dtype."""

from __future__ import annotations

import math
from collections.abc import Callable

from akg_dynamo.agents.designer.calls import RULES, Call, Result, rule
from akg_dynamo.agents.designer.sizes import floor_div
from akg_dynamo.agents.designer.values import (
    INF,
    V,
    apply,
    cat,
    exp,
    fn,
    full,
    log,
    maximum,
    minimum,
    rsqrt,
    sigmoid,
    sqrt,
    tanh,
    value_of,
    where,
)
from akg_dynamo.agents.sketch.ast import DType

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_PI = math.sqrt(2.0 / math.pi)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


def _formula(*names: str) -> Callable[[Callable[..., V]], Callable[..., V]]:
    """Register a formula over the call's operands, converted to the result's dtype and in the schema's order."""

    def register(f: Callable[..., V]) -> Callable[..., V]:
        def of_call(c: Call) -> Result:
            return f(*(o.to(c.dtype) if isinstance(o, V) else o for o in c.operands())).expand(c.shape)

        for name in names:
            RULES[name] = of_call
        return f

    return register


def _named(names: str) -> None:
    for name in names.split():
        _formula(name)(lambda x, *rest, op=name: apply(op, x, *rest))


_named("acos acosh asin asinh atan atan2 atanh copysign cos cosh erf erfc exp exp2 expm1 hypot lgamma log log10 log1p")
_named("log2 nextafter pow reciprocal sigmoid sin sinh sqrt tan tanh")
_named("maximum minimum fmod")


@rule("neg", "abs", "sign", "sgn", "floor", "ceil", "trunc", "round")
def _unary(c: Call) -> Result:
    x = c.value("self")
    if c.name in ("floor", "ceil", "trunc", "round"):
        if not x.is_float:
            return x
        decimals = c.get("decimals", 0)
        if decimals:
            scale = float(10.0 ** abs(decimals))
            return fn("round", x * scale) / scale if decimals > 0 else fn("round", x / scale) * scale
    if x.dtype is DType.BOOL:
        return x
    if x.dtype is DType.U8 and c.name in ("sign", "sgn"):
        return minimum(x, 1)
    if x.dtype is DType.U8 and c.name == "abs":
        return x
    return fn("sign" if c.name == "sgn" else c.name, x)


@rule("relu", "relu6")
def _relu(c: Call) -> Result:
    x = c.value("self")
    positive = maximum(x, 0)
    return minimum(positive, 6) if c.name == "relu6" else positive


@rule("add", "sub", "rsub")
def _add(c: Call) -> Result:
    a, b = c.term("self"), c.term("other")
    if c.name == "rsub":
        a, b = b, a
    alpha = c.get("alpha", 1)
    if c.dtype is DType.BOOL:
        return (a | b if alpha else a).expand(c.shape)
    scaled = b if isinstance(alpha, int | float) and alpha == 1 else b * alpha
    return (a + scaled if c.name == "add" else a - scaled).expand(c.shape)


@rule("mul")
def _mul(c: Call) -> Result:
    a, b = c.value("self"), c.value("other")
    return (a & b if c.dtype is DType.BOOL else a * b).expand(c.shape)


@rule("div", "floor_divide", "true_divide")
def _div(c: Call) -> Result:
    a, b = c.value("self"), c.value("other")
    mode = c.get("rounding_mode") or ("floor" if c.name == "floor_divide" else None)
    if mode is None:
        return (a / b).expand(c.shape)
    if mode == "floor":
        return a.op("floordiv", b).expand(c.shape)
    if c.dtype.is_float:
        return fn("trunc", a / b).expand(c.shape)
    return a.op("truncdiv", b).expand(c.shape)


@rule("fmax", "fmin")
def _fmax(c: Call) -> Result:
    bits = {"fmax": "or", "fmin": "and"}
    return c.value("self").op(bits[c.name] if c.dtype is DType.BOOL else c.name, c.value("other")).expand(c.shape)


@rule("remainder")
def _remainder(c: Call) -> Result:
    return c.value("self").op("mod", c.value("other")).expand(c.shape)


@rule("square")
def _square(c: Call) -> Result:
    x = c.value("self")
    return x * x


@rule("rsqrt")
def _rsqrt(c: Call) -> Result:
    return rsqrt(c.value("self"))


@rule("pow")
def _pow(c: Call) -> Result:
    base, exponent = c["self"], c["exponent"]
    x = value_of(base, c.dtype).to(c.dtype)
    if isinstance(exponent, V) or not isinstance(exponent, int | float):
        return x.op("pow", c.value("exponent")).expand(c.shape)
    simple = _simple_power(x, float(exponent)) if x.dtype is not DType.BOOL else None
    return (simple if simple is not None else x.op("pow", exponent)).expand(c.shape)


def _simple_power(x: V, exponent: float) -> V | None:
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    if exponent == 1:
        return x
    if x.is_float:
        if exponent == 0.5:
            return sqrt(x)
        if exponent == -0.5:
            return rsqrt(x)
        if exponent == -1:
            return 1.0 / x
        if exponent == -2:
            return 1.0 / (x * x)
    return None


# --------------------------------------------------------------------------------------------------------------------
# Comparisons and logic: the operands' common dtype is not the result's


@rule("eq", "ne", "lt", "le", "gt", "ge")
def _compare(c: Call) -> Result:
    a, b = c.common("self", "other")
    return apply(c.name, a, b, boolean=True).expand(c.shape)


@rule("logical_and", "logical_or", "logical_xor")
def _logical(c: Call) -> Result:
    a, b = c.value("self", DType.BOOL), c.value("other", DType.BOOL)
    return a.op(c.name.removeprefix("logical_"), b).expand(c.shape)


@rule("logical_not")
def _logical_not(c: Call) -> Result:
    return ~c.value("self", DType.BOOL)


_BITWISE = {
    "bitwise_and": "and", "__and__": "and", "bitwise_or": "or", "__or__": "or", "bitwise_xor": "xor", "__xor__": "xor",
    "bitwise_left_shift": "shl", "__lshift__": "shl", "bitwise_right_shift": "shr", "__rshift__": "shr",
}  # fmt: skip


@rule(*_BITWISE)
def _bitwise(c: Call) -> Result:
    return c.value("self").op(_BITWISE[c.name], c.value("other")).expand(c.shape)


@rule("bitwise_not")
def _bitwise_not(c: Call) -> Result:
    return ~c.value("self")


@rule("isnan", "isinf", "signbit", "isposinf", "isneginf", "isfinite")
def _test(c: Call) -> Result:
    x = c.raw("self")
    if not x.is_float:
        return x < 0 if c.name == "signbit" and x.dtype.is_int else full(c.name == "isfinite", DType.BOOL, c.shape)
    if c.name in ("isposinf", "isneginf"):
        return x.eq(INF if c.name == "isposinf" else -INF)
    if c.name == "isfinite":
        return fn("abs", x) < INF
    return V.test(x, c.name)


@rule("where")
def _where(c: Call) -> Result:
    a, b = c.value("self"), c.value("other")
    return where(c.raw("condition").to(DType.BOOL), a, b).expand(c.shape)


@rule("masked_fill")
def _masked_fill(c: Call) -> Result:
    return where(c.raw("mask").to(DType.BOOL), c.value("value"), c.value("self")).expand(c.shape)


@rule("fill", "zero")
def _fill(c: Call) -> Result:
    return c.value("value").expand(c.shape) if c.name == "fill" else full(0, c.dtype, c.shape)


@rule("clamp", "clamp_min", "clamp_max", "hardtanh")
def _clamp(c: Call) -> Result:
    x = c.value("self")
    low, high = c.maybe("min" if "min" in c.args else "min_val"), c.maybe("max" if "max" in c.args else "max_val")
    if low is not None:
        x = maximum(x, low)
    if high is not None:
        x = minimum(x, high)
    return x.expand(c.shape)


@rule("nan_to_num")
def _nan_to_num(c: Call) -> Result:
    x = c.value("self")
    if not x.is_float:
        return x
    limits = {"float16": 65504.0, "bfloat16": 3.3895313892515355e38, "float64": 1.7976931348623157e308}
    spec = c.specs[0]
    assert spec is not None
    most = limits.get(spec.dtype, 3.4028234663852886e38)
    filled = where(x.test("isnan"), float(c.get("nan", 0.0)), x)
    filled = where(x.eq(INF), float(c.get("posinf", most)), filled)
    return where(x.eq(-INF), float(c.get("neginf", -most)), filled)


@rule("heaviside")
def _heaviside(c: Call) -> Result:
    x, values = c.value("self"), c.value("values")
    return where(x.eq(0), values, where((x < 0) | _is_nan(x), x.like(0), x.like(1))).expand(c.shape)


def _is_nan(x: V) -> V:
    return x.test("isnan") if x.is_float else full(False, DType.BOOL, x.shape)


# --------------------------------------------------------------------------------------------------------------------
# Formulas


@_formula("addcmul")
def _addcmul(x: V, a: V, b: V, value: float = 1) -> V:
    return x + (a * b if value == 1 else a * value * b)


@_formula("addcdiv")
def _addcdiv(x: V, a: V, b: V, value: float = 1) -> V:
    return x + (a / b if value == 1 else a * value / b)


@_formula("lerp")
def _lerp(a: V, b: V, weight: V | float) -> V:
    if isinstance(weight, V):
        return where(fn("abs", weight) < 0.5, a + weight * (b - a), b - (b - a) * (1.0 - weight))
    return a + weight * (b - a) if abs(weight) < 0.5 else b - (b - a) * (1.0 - weight)


@_formula("deg2rad")
def _deg2rad(x: V) -> V:
    return x * (math.pi / 180)


@_formula("rad2deg")
def _rad2deg(x: V) -> V:
    return x * (180 / math.pi)


@_formula("frac")
def _frac(x: V) -> V:
    return x - fn("trunc", x)


@_formula("sinc")
def _sinc(x: V) -> V:
    scaled = x * math.pi
    return where(x.eq(0), 1.0, fn("sin", scaled) / scaled)


@_formula("logaddexp")
def _logaddexp(a: V, b: V) -> V:
    most, difference = maximum(a, b), fn("abs", a - b)
    same_infinity = a.eq(b) & fn("abs", a).eq(INF)
    return where(same_infinity, a, most + fn("log1p", exp(-difference)))


@_formula("logaddexp2")
def _logaddexp2(a: V, b: V) -> V:
    most, difference = maximum(a, b), fn("abs", a - b)
    same_infinity = a.eq(b) & fn("abs", a).eq(INF)
    return where(same_infinity, a, most + fn("log1p", fn("exp2", -difference)) * (1 / math.log(2)))


@rule("xlogy", "special_xlog1py")
def _xlogy(c: Call) -> Result:
    x, y = c.value("self"), c.value("other")
    product = x * (log(y) if c.name == "xlogy" else fn("log1p", y))
    return where(y.test("isnan"), y, where(x.eq(0), 0.0, product)).expand(c.shape)


@_formula("special_entr")
def _entr(x: V) -> V:
    return where(x.test("isnan"), x, where(x > 0, -x * log(x), where(x.eq(0), x.like(0.0), x.like(-INF))))


@rule("logit", "logit_backward")
def _logit(c: Call) -> Result:
    x, eps = c.value("self"), c.get("eps")
    if c.name == "logit":
        if eps is not None:
            x = minimum(maximum(x, eps), 1.0 - eps)
        return log(x / (1.0 - x))
    low, high = (eps, 1.0 - eps) if eps is not None else (0.0, 1.0)
    inside = (x >= low) & (x <= high)
    outside = 0.0 if eps is not None else math.nan
    return where(inside, c.value("grad_output") / (x * (1.0 - x)), outside)


# --------------------------------------------------------------------------------------------------------------------
# Activations and their gradients


@rule("gelu")
def _gelu(c: Call) -> Result:
    x = c.value("self")
    if c.get("approximate", "none") == "tanh":
        return 0.5 * x * (1.0 + tanh(_SQRT_2_PI * (x + 0.044715 * (x * x * x))))
    return x * 0.5 * (1.0 + fn("erf", x * _SQRT_HALF))


@rule("gelu_backward")
def _gelu_backward(c: Call) -> Result:
    grad, x = c.value("grad_output"), c.value("self")
    if c.get("approximate", "none") == "tanh":
        square = x * x
        inner = tanh(_SQRT_2_PI * (x + 0.044715 * (square * x)))
        left, slope = 0.5 * (1.0 + inner), _SQRT_2_PI * (1.0 + 3 * 0.044715 * square)
        return grad * (left + 0.5 * x * (1.0 - inner * inner) * slope)
    cdf = 0.5 * (1.0 + fn("erf", x * _SQRT_HALF))
    return grad * (cdf + x * (exp(x * x * -0.5) * _INV_SQRT_2PI))


@_formula("silu")
def _silu(x: V) -> V:
    return x / (1.0 + exp(-x))


@_formula("silu_backward")
def _silu_backward(grad: V, x: V) -> V:
    s = sigmoid(x)
    return grad * s * (1.0 + x * (1.0 - s))


@_formula("mish")
def _mish(x: V) -> V:
    return x * tanh(_softplus(x))


@_formula("mish_backward")
def _mish_backward(grad: V, x: V) -> V:
    inner = tanh(_softplus(x))
    return grad * (inner + x * sigmoid(x) * (1.0 - inner * inner))


def _softplus(x: V) -> V:
    return where(x > 20.0, x, fn("log1p", exp(x)))


@_formula("softplus")
def _softplus_rule(x: V, beta: float = 1.0, threshold: float = 20.0) -> V:
    scaled = x * beta
    return where(scaled > threshold, x, fn("log1p", exp(scaled)) / beta)


@_formula("softplus_backward")
def _softplus_backward(grad: V, x: V, beta: float = 1.0, threshold: float = 20.0) -> V:
    scaled = x * beta
    z = exp(scaled)
    return where(scaled > threshold, grad, grad * z / (z + 1.0))


@rule("log_sigmoid_forward")
def _log_sigmoid(c: Call) -> Result:
    x = c.value("self")
    z = exp(-fn("abs", x))
    buffer = z if c.wants(1) and c.shape_of(1) == c.shape else None
    if buffer is None and c.wants(1):
        buffer = full(0.0, c.dtype, c.shape_of(1))
    return minimum(x, 0.0) - fn("log1p", z), buffer


@rule("log_sigmoid_backward")
def _log_sigmoid_backward(c: Call) -> Result:
    grad, x = c.value("grad_output"), c.value("self")
    z = exp(-fn("abs", x))
    negative = x < 0.0
    limit, sign = where(negative, x.like(1.0), x.like(0.0)), where(negative, x.like(1.0), x.like(-1.0))
    return grad * (limit - sign * (z / (1.0 + z)))


@rule("elu", "selu", "celu")
def _elu(c: Call) -> Result:
    x = c.value("self")
    if c.name == "selu":
        alpha, scale, input_scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0
    else:
        alpha, scale, input_scale = float(c.get("alpha", 1.0)), float(c.get("scale", 1.0)), c.get("input_scale", 1.0)
        if c.name == "celu":
            input_scale = 1.0 / alpha
    return where(x > 0, x * scale, fn("expm1", x * float(input_scale)) * (alpha * scale))


@rule("elu_backward")
def _elu_backward(c: Call) -> Result:
    grad, x = c.value("grad_output"), c.value("self_or_result")
    alpha, scale, input_scale = float(c["alpha"]), float(c["scale"]), float(c["input_scale"])
    if c["is_result"]:
        return where(x <= 0, grad * input_scale * (x + alpha * scale), grad * scale)
    return where(x <= 0, grad * (input_scale * alpha * scale) * exp(x * input_scale), grad * scale)


@_formula("leaky_relu")
def _leaky_relu(x: V, slope: float = 0.01) -> V:
    return where(x > 0, x, x * slope)


@rule("leaky_relu_backward")
def _leaky_relu_backward(c: Call) -> Result:
    grad, x = c.value("grad_output"), c.value("self")
    return where(x > 0, grad, grad * float(c["negative_slope"]))


@_formula("_prelu_kernel")
def _prelu(x: V, weight: V) -> V:
    return where(x > 0, x, weight * x)


@rule("_prelu_kernel_backward")
def _prelu_backward(c: Call) -> Result:
    grad, x, weight = c.value("grad_output"), c.value("self"), c.value("weight")
    own, of_weight = where(x > 0, grad, weight * grad), where(x > 0, 0.0, x * grad)
    return own.expand(c.shape_of(0)), of_weight.expand(c.shape_of(1)) if c.wants(1) else None


@_formula("hardsigmoid")
def _hardsigmoid(x: V) -> V:
    return minimum(maximum(x + 3.0, 0.0), 6.0) / 6.0


@_formula("hardsigmoid_backward")
def _hardsigmoid_backward(grad: V, x: V) -> V:
    return where((x > -3.0) & (x < 3.0), grad * (1.0 / 6.0), 0.0)


@_formula("hardswish")
def _hardswish(x: V) -> V:
    return x * minimum(maximum(x + 3.0, 0.0), 6.0) / 6.0


@_formula("hardswish_backward")
def _hardswish_backward(grad: V, x: V) -> V:
    return where(x <= -3.0, 0.0, where(x < 3.0, grad * (x / 3.0 + 0.5), grad))


@rule("hardtanh_backward")
def _hardtanh_backward(c: Call) -> Result:
    x = c.value("self")
    return where((x <= float(c["min_val"])) | (x >= float(c["max_val"])), 0.0, c.value("grad_output"))


@rule("hardshrink", "softshrink", "hardshrink_backward", "softshrink_backward")
def _shrink(c: Call) -> Result:
    x, edge = c.value("self"), float(c["lambd"])
    if c.name == "hardshrink":
        return where((x >= -edge) & (x <= edge), 0.0, x)
    if c.name == "softshrink":
        return where(x > edge, x - edge, where(x < -edge, x + edge, x * 0.0))
    grad = c.value("grad_out" if "grad_out" in c.args else "grad_output")
    return where((x >= -edge) & (x <= edge), 0.0, grad)


@rule("threshold", "threshold_backward")
def _threshold(c: Call) -> Result:
    x = c.value("self")
    if c.name == "threshold":
        return where(x <= c["threshold"], c.value("value"), x)
    return where(x <= c["threshold"], 0, c.value("grad_output")).expand(c.shape)


@_formula("sigmoid_backward")
def _sigmoid_backward(grad: V, y: V) -> V:
    return grad * (y * (1.0 - y))


@_formula("tanh_backward")
def _tanh_backward(grad: V, y: V) -> V:
    return grad * (1.0 - y * y)


@rule("native_dropout_backward")
def _dropout_backward(c: Call) -> Result:
    return c.value("grad_output") * c.value("mask") * float(c["scale"])


@rule("glu", "glu_backward")
def _glu(c: Call) -> Result:
    x = c.value("self")
    dim = c.dims(len(x.shape))[0]
    size = x.shape[dim]
    half = floor_div(size, 2)
    a, gate = x.slice(dim, 0, half), sigmoid(x.slice(dim, half, half))
    if c.name == "glu":
        return a * gate
    grad = c.value("grad_output")
    return cat([grad * gate, grad * a * gate * (1.0 - gate)], dim)
