/* The functions of activate and of linear's fn, and their derivatives, on vectors. Pass `fn` as a
 * constant: the switch is then decided by the compiler. Errors are about 1e-6 of the value, 2e-6 in
 * the far tail of gelu_tanh. NaN stays NaN. */
#pragma once
#include "ir/op.h"
#include "kernels/fast/simd.h"

/* gelu_tanh(x) = x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
TR_INLINE vf vf_gelu_twice_u(vf x)
{
    vf square = x * x;
    return x * vf_fma(vf_set1(0.0713548163f), square, vf_set1(1.59576912f));
}

TR_INLINE vf vf_activate(vf x, tr_fn fn)
{
    switch (fn) {
    case TR_FN_gelu_tanh:
        return x * vf_sigmoid(vf_gelu_twice_u(x));
    case TR_FN_gelu_erf:
        return x * vf_normal_cdf(x, NULL);
    case TR_FN_relu:
        return vf_select(vf_lt(x, vf_zero()), vf_zero(), x);
    case TR_FN_silu:
        return x * vf_sigmoid(x);
    case TR_FN_tanh:
        return vf_tanh(x);
    case TR_FN_sigmoid:
        return vf_sigmoid(x);
    default:
        return x;
    }
}

/* The derivative at x. */
TR_INLINE vf vf_activate_slope(vf x, tr_fn fn)
{
    vf one = vf_set1(1.0f);
    switch (fn) {
    case TR_FN_gelu_tanh: {
        /* s + x s (1 - s) (2 u)'. Beyond the bounds the derivative is 0 or 1 to the last bit. */
        vf a = vf_min(vf_set1(16.0f), vf_max(vf_set1(-16.0f), x));
        vf e = vf_min(vf_set1(1e38f), vf_exp(-vf_gelu_twice_u(a))), s = one / (one + e);
        vf rise = vf_fma(vf_set1(0.214064449f), a * a, vf_set1(1.59576912f));
        return vf_fma(a * rise, e * s * s, s);
    }
    case TR_FN_gelu_erf: {
        vf density, cdf = vf_normal_cdf(x, &density);
        vf a = vf_min(vf_set1(16.0f), vf_max(vf_set1(-16.0f), x));
        return vf_fma(a, density, cdf);
    }
    case TR_FN_relu:
        return vf_select(vf_lt(vf_zero(), x), one, vf_zero());
    case TR_FN_silu: {
        vf a = vf_min(vf_set1(87.0f), vf_max(vf_set1(-87.0f), x));
        vf e = vf_exp(-a), s = one / (one + e);
        return vf_fma(a, e * s * s, s);
    }
    case TR_FN_tanh: {
        /* 1 - tanh^2 = 4 e / (1 + e)^2, e = e^-2|x|: no cancellation. */
        vf e = vf_exp(vf_abs(x) * -2.0f), s = one / (one + e);
        return 4.0f * e * s * s;
    }
    case TR_FN_sigmoid: {
        vf e = vf_exp(-vf_abs(x)), s = one / (one + e);
        return e * s * s;
    }
    default:
        return one;
    }
}
