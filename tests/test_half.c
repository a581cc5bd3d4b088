/* fp16: conversions, of all halves and at every border, by the processor and without; kernels of it. */
#include "check.h"

#include "base/memory.h"
#include "kernels/half.h"
#include "kernels/registry.h"

static uint16_t to_half(float x)
{
    uint16_t plain = tr_f32_to_f16(x), at_once[9];
    float many[9];
    for (int i = 0; i < 9; i++)
        many[i] = x;
    tr_f32_to_halves(many, 9, at_once);
    for (int i = 0; i < 9; i++)
        CHECK_INT(at_once[i], plain);
    return plain;
}

static void test_every_half(void)
{
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h, same[9];
        float x = tr_f16_to_f32(half), many[9];
        for (int i = 0; i < 9; i++)
            same[i] = half;
        tr_halves_to_f32(same, 9, many);
        if (isnan(x)) {
            CHECK((h & 0x7fff) > 0x7c00 && isnan(many[0]) && isnan(many[8]));
            CHECK((tr_f32_to_f16(x) & 0x7fff) > 0x7c00);
            continue;
        }
        CHECK(many[0] == x && many[8] == x);
        CHECK_INT(to_half(x), half);
        /* Half way to the next one: the even one of the two; a little more: the next. */
        if ((h & 0x7fff) >= 0x7bff)
            continue;
        float next = tr_f16_to_f32((uint16_t)(half + 1)), middle = x + (next - x) / 2;
        CHECK_INT(to_half(middle), half + (half & 1));
        CHECK_INT(to_half(nextafterf(middle, next)), half + 1);
        CHECK_INT(to_half(nextafterf(middle, x)), half);
    }
}

static void test_borders(void)
{
    CHECK_INT(to_half(65504), 0x7bff);
    CHECK_INT(to_half(65519.996f), 0x7bff);
    CHECK_INT(to_half(65520), 0x7c00);
    CHECK_INT(to_half(-1e30f), 0xfc00);
    CHECK_INT(to_half(INFINITY), 0x7c00);
    CHECK_INT(to_half(0x1p-25f), 0);
    CHECK_INT(to_half(nextafterf(0x1p-25f, 1)), 1);
    CHECK_INT(to_half(-0.0f), 0x8000);
    CHECK_INT(to_half(1e-40f), 0);
}

/* What adds into a buffer does so in f16 too: acc + x w, all in one. */
static void test_shared_buffer(void)
{
    enum { N = 37 };
    uint16_t x[N * N], w[N * N], y[N * N];
    for (int i = 0; i < N * N; i++) {
        x[i] = tr_f32_to_f16((float)(i % 7) / 8);
        w[i] = tr_f32_to_f16(i / N == i % N ? 2 : 0);
        y[i] = tr_f32_to_f16((float)(i % 5));
    }
    tr_tensor in[4] = {{.data = x, .dtype = TR_F16, .rank = 2, .dims = {N, N}}, {.data = w, .dtype = TR_F16, .rank = 2, .dims = {N, N}},
                       {.data = y, .dtype = TR_F16, .rank = 2, .dims = {N, N}}, {.data = y, .dtype = TR_F16, .rank = 2, .dims = {N, N}}};
    tr_attr attrs[TR_MAX_ATTRS] = {0};
    for (int reference = 0; reference < 2; reference++) {
        tr_call call = {.op = TR_OP_linear_dx, .n_in = 3, .n_out = 1, .in = in, .out = in + 3, .attrs = attrs};
        CHECK(tr_call_has_half(&call));
        const tr_kernel *kernel = tr_kernel_half(&call, tr_cpu_isa_best(), reference);
        CHECK_OK(kernel->prepare(&call));
        call.scratch = aligned_alloc(64, (call.scratch_bytes + 63) / 64 * 64);
        kernel->run(&call);
        kernel->release(&call);
        free(call.scratch);
        for (int i = 0; i < N * N; i++)
            CHECK_NEAR(tr_f16_to_f32(y[i]), i % 5 + (reference + 1) * (i % 7) / 4.0, 0);
    }
}

int main(void)
{
    TEST(test_every_half);
    TEST(test_borders);
    TEST(test_shared_buffer);
    return check_report();
}
