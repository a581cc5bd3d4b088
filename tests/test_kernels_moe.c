/* Kernels of experts against their references: routing of many experts and of few, rooms apart, joined and together, more rows than
 * one product takes, empty experts, sums that are added to. */
#include "check_kernels.h"

static tr_tensor whole_numbers(int rank, const int64_t *dims, int64_t below)
{
    tr_tensor t = kc_shape(TR_I32, rank, dims);
    t.data = kc_room(kc_bytes(&t));
    for (int64_t i = 0; i < tr_tensor_elems(&t); i++)
        ((int32_t *)t.data)[i] = (int32_t)((kc_random() + 1) / 2 * (double)below);
    return t;
}

typedef enum sharing { APART, JOINED, TOGETHER } sharing;

static void check_route(int64_t b, int64_t t, int64_t e, int64_t k, int64_t capacity, sharing rooms)
{
    kernel_case c = {.op = TR_OP_route, .n_in = 1, .n_out = 4, .seed = 5, .step = 3, .extent = {b, t, e},
                     .relative = {1e-5}, .absolute = {1e-6}};
    c.in[0] = kc_uniform(TR_F32, KC_DIMS(b, t, e), 0, 3);
    c.out[0] = kc_shape(TR_F32, KC_DIMS(b, t, k));
    c.out[1] = c.out[2] = kc_shape(TR_I32, KC_DIMS(b, t, k));
    c.out[3] = kc_shape(TR_I32, KC_DIMS(b, e));
    c.attrs[TR_ROUTE_K].i = k;
    c.attrs[TR_ROUTE_CAPACITY].i = capacity;
    c.attrs[TR_ROUTE_JOINED].i = rooms != APART;
    c.attrs[TR_ROUTE_TOGETHER].i = rooms == TOGETHER;
    c.attrs[TR_ROUTE_RANDOM].i = k > 1;
    for (int normalised = 0; normalised < 2; normalised++) {
        c.attrs[TR_ROUTE_NORMALISED].i = normalised;
        CHECK(kernel_check(&c) > 0);
    }
    kc_free_inputs(&c);
}

static void check_losses(int64_t b, int64_t t, int64_t e, int64_t k)
{
    kernel_case c = {.op = TR_OP_route_loss, .n_in = 2, .n_out = 2, .relative = {1e-5, 1e-5}, .attrs = {{.i = k > 1}}};
    c.in[0] = kc_uniform(TR_F32, KC_DIMS(b, t, e), 0, 3);
    c.in[1] = whole_numbers(KC_DIMS(b, t, k), e);
    c.out[0] = c.out[1] = kc_shape(TR_F32, KC_DIMS(1));
    CHECK(kernel_check(&c) > 0);
    c.op = TR_OP_route_loss_grad;
    c.n_in = 4;
    c.n_out = 1;
    c.in[2] = kc_uniform(TR_F32, KC_DIMS(1), 0.5, 0.1);
    c.in[3] = kc_uniform(TR_F32, KC_DIMS(1), 0.5, 0.1);
    c.out[0] = c.in[0];
    c.relative[0] = 1e-4;
    c.absolute[0] = 1e-5;
    CHECK(kernel_check(&c) > 0);
    kc_free_inputs(&c);
}

/* A token has its choices once each, as a routing gives them. */
static void check_route_grad(int64_t b, int64_t t, int64_t e, int64_t k)
{
    kernel_case c = {.op = TR_OP_route_grad, .n_in = 3, .n_out = 1, .relative = {1e-4}, .absolute = {1e-5}};
    c.in[0] = kc_uniform(TR_F32, KC_DIMS(b, t, k), 0, 1);
    c.in[1] = kc_uniform(TR_F32, KC_DIMS(b, t, e), 0, 3);
    c.in[2] = whole_numbers(KC_DIMS(b, t, k), e - k + 1);
    for (int64_t i = 0; i < b * t * k; i++)
        ((int32_t *)c.in[2].data)[i] += (int32_t)(i % k);
    for (int64_t i = 0; i < b * t * k; i++)
        if (i % k && ((int32_t *)c.in[2].data)[i] <= ((int32_t *)c.in[2].data)[i - 1])
            ((int32_t *)c.in[2].data)[i] = (((int32_t *)c.in[2].data)[i - 1] + 1) % (int32_t)e;
    c.out[0] = kc_shape(TR_F32, KC_DIMS(b, t, e));
    c.attrs[TR_ROUTE_NORMALISED].i = k > 1;
    CHECK(kernel_check(&c) > 0);
    kc_free_inputs(&c);
}

/* What experts have in each sequence: more than others, all, or nothing. */
static tr_tensor filling(int64_t b, int64_t e, int64_t c, bool joined)
{
    tr_tensor t = kc_shape(TR_I32, KC_DIMS(b, e));
    t.data = kc_room(kc_bytes(&t));
    for (int64_t i = 0; i < b; i++)
        for (int64_t left = c, j = 0; j < e; j++) {
            int64_t own = e == 1 ? c : j == 1 ? 0 : (int64_t)((kc_random() + 1) / 2 * (double)(joined ? left : c + 1));
            ((int32_t *)t.data)[i * e + j] = (int32_t)own;
            left -= own;
        }
    return t;
}

static void check_experts(tr_dtype dtype, int64_t e, int64_t b, int64_t c, int64_t k, int64_t n, sharing kind, bool transposed)
{
    int64_t rooms = kind == APART ? e : 1, sequences = b;
    double wrong = dtype == TR_F32 ? 2e-6 : 0.01;
    kernel_case a = {.op = TR_OP_expert_linear, .n_in = 3, .n_out = 1, .relative = {wrong}, .absolute = {wrong}};
    a.in[2] = filling(b, e, c, kind != APART);
    if (kind == TOGETHER)
        b = 1, c *= sequences;
    a.in[0] = kc_uniform(dtype, KC_DIMS(rooms, b, c, k), 0, 1);
    a.in[1] = transposed ? kc_uniform(dtype, KC_DIMS(e, n, k), 0, 1) : kc_uniform(dtype, KC_DIMS(e, k, n), 0, 1);
    a.out[0] = kc_shape(dtype, KC_DIMS(rooms, b, c, n));
    a.attrs[TR_EXPERT_TRANSPOSED].i = transposed;
    CHECK(kernel_check(&a) > 0);
    free(a.in[1].data);

    kernel_case d = {.op = TR_OP_expert_linear_dw, .n_in = 4, .n_out = 1, .relative = {1e-5}, .absolute = {1e-5}};
    d.in[0] = a.in[0];
    d.in[1] = kc_uniform(dtype, KC_DIMS(rooms, b, c, n), 0, 1);
    d.in[2] = a.in[2];
    d.in[3] = kc_absent;
    d.out[0] = kc_shape(TR_F32, KC_DIMS(e, k, n));
    CHECK(kernel_check(&d) > 0);
    d.in[3] = kc_uniform(TR_F32, KC_DIMS(e, k, n), 0, 1);
    d.over[0] = 4;
    d.accumulates = true;
    CHECK(kernel_check(&d) > 0);
    kc_free_inputs(&d);
}

static void test_routing(void)
{
    check_route(3, 37, 8, 2, 37, JOINED);
    check_route(3, 37, 8, 2, 5, APART);
    check_route(2, 19, 1, 1, 19, APART);
    check_route(5, 11, 67, 3, 2, JOINED);
    check_route(5, 11, 67, 3, 2, TOGETHER);
    check_route(3, 37, 8, 1, 20, TOGETHER);
    check_route_grad(3, 37, 8, 2);
    check_route_grad(2, 9, 67, 3);
    check_route_grad(2, 9, 5, 1);
    check_losses(3, 37, 8, 2);
    check_losses(1, 9, 67, 1);
}

static void test_products_of_experts(void)
{
    for (int dtype = 0; dtype < 2; dtype++)
        for (int transposed = 0; transposed < 2; transposed++) {
            tr_dtype of = dtype ? TR_BF16 : TR_F32;
            check_experts(of, 3, 2, 150, 64, 40, APART, transposed);
            check_experts(of, 4, 3, 210, 48, 33, JOINED, transposed);
            check_experts(of, 4, 3, 210, 48, 33, TOGETHER, transposed);
            check_experts(of, 1, 1, 97, 40, 64, APART, transposed);
            check_experts(of, 5, 2, 7, 33, 16, JOINED, transposed);
            check_experts(of, 5, 9, 7, 33, 16, TOGETHER, transposed);
        }
    check_experts(TR_F32, 1, 10, 130, 32, 48, APART, false); /* more rows than one product takes */
    check_experts(TR_BF16, 1, 10, 130, 32, 48, APART, true);
    check_experts(TR_F32, 2, 10, 260, 16, 24, JOINED, true);
    check_experts(TR_F32, 2, 10, 260, 16, 24, TOGETHER, true);
    check_experts(TR_BF16, 1, 10, 130, 32, 48, TOGETHER, false);
}

int main(void)
{
    TEST(test_routing);
    TEST(test_products_of_experts);
    return check_report();
}
