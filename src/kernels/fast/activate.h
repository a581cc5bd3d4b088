/* The functions of activate and of linear's fn, and their derivatives, on vectors. Pass `fn` and `bf16`
 * as constants: they are then decided by the compiler. Errors are about 1e-6 of the value, 2e-6 in
 * the far tail of gelu_tanh. NaN stays NaN.
 *
 * bf16: the result is rounded to it, by up to 2^-8 of the value. gelu_erf is then computed with a third of the
 * instructions: to 2^-12 of the value; its derivative to 2^-12 of the value where |x| < 5 and to 2^-8 beyond, and
 * everywhere where it is below 0.06 (it crosses zero at -0.75) to 2^-16. Numbers below 1e-38 become zero. */
#pragma once
#include "ir/op.h"
#include "kernels/fast/simd.h"

/* gelu_tanh(x) = x (1 + tanh u) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
TR_INLINE vf vf_gelu_twice_u(vf x)
{
    vf square = x * x;
    return x * vf_fma(vf_set1(0.0713548163f), square, vf_set1(1.59576912f));
}

/* gelu(x) = max(x, 0) - |x| T(|x|), T(a) = erfc(a / sqrt 2) / 2 = 2^q: q is a polynomial of degree 8, fitted in [0, 13];
 * beyond, to 16, where T is zero in f32, it falls as it should. */
TR_INLINE vf vf_gelu_rough(vf x)
{
    vf a = vf_min(vf_set1(16.0f), vf_abs(x));
    vf q = vf_fma(vf_set1(2.79207608e-08f), a, vf_set1(-1.77841878e-06f));
    q = vf_fma(q, a, vf_set1(4.86963891e-05f));
    q = vf_fma(q, a, vf_set1(-0.000757498095f));
    q = vf_fma(q, a, vf_set1(0.00750784297f));
    q = vf_fma(q, a, vf_set1(-0.0511076674f));
    q = vf_fma(q, a, vf_set1(-0.462285191f));
    q = vf_fma(q, a, vf_set1(-1.14933574f));
    q = vf_fma(q, a, vf_set1(-1.00015521f));
    return vf_max(x, vf_zero()) - a * vf_exp2_rough(q);
}

/* gelu'(-a) = T(a) - a e^(-a a / 2) / sqrt(2 pi) = e^(-a a / 2) r, and gelu'(a) = 1 - gelu'(-a). What r has but for the
 * second term is a cubic polynomial in 1 / (1 + 0.33 a). */
TR_INLINE vf vf_gelu_slope_rough(vf x)
{
    vf a = vf_min(vf_set1(16.0f), vf_abs(x)), one = vf_set1(1.0f);
    vf t = vf_inverse_rough(vf_fma(vf_set1(0.33f), a, one));
    vf r = vf_fma(vf_set1(0.404733956f), t, vf_set1(-0.108554661f));
    r = vf_fma(r, t, vf_set1(0.213348329f));
    r = vf_fma(r, t, vf_set1(-0.00950306747f));
    r = vf_fma(a, vf_set1(-0.39894228f), r);
    vf below = vf_exp2_rough(a * -0.72134752f * a) * r;
    return vf_select(vf_lt(x, vf_zero()), below, one - below);
}

TR_INLINE vf vf_activate(vf x, tr_fn fn, bool bf16)
{
    switch (fn) {
    case TR_FN_gelu_tanh:
        return x * vf_sigmoid(vf_gelu_twice_u(x));
    case TR_FN_gelu_erf:
        return bf16 ? vf_gelu_rough(x) : x * vf_normal_cdf(x, NULL);
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
TR_INLINE vf vf_activate_slope(vf x, tr_fn fn, bool bf16)
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
        if (bf16)
            return vf_gelu_slope_rough(x);
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
