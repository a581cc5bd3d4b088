/* Machine facts from CPUID, sched_getaffinity, /proc and the control group files; see cpu.h.
 *
 * Nothing here is cached and nothing fails: a file that is missing or unreadable means no limit.
 * A few milliseconds at most; called once per process.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "base/cpu.h"

#include <ctype.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/suggest.h"

static const char *const isa_names[TR_ISA_COUNT + 1] = {
    [TR_ISA_PORTABLE] = "portable",       [TR_ISA_AVX2] = "avx2",  [TR_ISA_AVX512] = "avx512",
    [TR_ISA_AVX512_BF16] = "avx512_bf16", [TR_ISA_AMX] = "amx",   [TR_ISA_COUNT] = "auto",
};

const char *tr_isa_name(tr_isa isa)
{
    TR_CHECK((unsigned)isa < TR_ISA_COUNT, "instruction set %d", (int)isa);
    return isa_names[isa];
}

#if defined(__x86_64__)
#include <cpuid.h>

/* Which register states the operating system saves (XCR0): without it the wider registers fault. */
static uint64_t saved_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Linux gives a process the tiles, 8 KB a thread, when it asks for them (kernel 5.16). */
static bool ask_for_tiles(void)
{
#ifdef TRIREME_AMX
    enum { ARCH_REQUEST = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}

tr_isa tr_cpu_isa_best(void)
{
    enum { SAVED_YMM = 0x06, SAVED_ZMM = 0xe6 }; /* SSE, AVX; + opmask, both halves of ZMM */
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29; /* 1: ECX */
    const uint32_t avx2 = 1u << 5;                                                      /* 7: EBX */
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL; 7: EBX */
    const uint32_t vnni = 1u << 11;                                    /* 7: ECX */
    const uint32_t bf16 = 1u << 5;                                     /* 7.1: EAX */
    const uint32_t amx = 1u << 22 | 1u << 24;                          /* BF16, TILE; 7: EDX */
    const uint64_t saved_tiles = 3u << 17;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) ||
        (c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c))
        return TR_ISA_PORTABLE;
    uint64_t saved = saved_states();
    unsigned subleaves;
    if ((saved & SAVED_YMM) != SAVED_YMM || !__get_cpuid_count(7, 0, &subleaves, &b, &c, &d) ||
        !(b & avx2))
        return TR_ISA_PORTABLE;
    if ((saved & SAVED_ZMM) != SAVED_ZMM || (b & avx512) != avx512)
        return TR_ISA_AVX2;
    bool tiles = (d & amx) == amx && (saved & saved_tiles) == saved_tiles;
    if (!(c & vnni) || subleaves < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & bf16))
        return TR_ISA_AVX512;
    return tiles && ask_for_tiles() ? TR_ISA_AMX : TR_ISA_AVX512_BF16;
}
#else
tr_isa tr_cpu_isa_best(void)
{
    return TR_ISA_PORTABLE;
}
#endif

tr_error *tr_isa_parse(const char *name, tr_isa *out)
{
    tr_isa best = tr_cpu_isa_best();
    for (int i = 0; i <= TR_ISA_COUNT; i++) {
        if (strcmp(name, isa_names[i]) != 0)
            continue;
        *out = i == TR_ISA_COUNT ? best : (tr_isa)i;
        if (*out > best)
            return tr_error_new(TR_USER, "this processor has no %s; the best it has is %s", name,
                                isa_names[best]);
        return NULL;
    }
    const char *near = tr_suggest(name, isa_names, TR_ISA_COUNT + 1);
    return tr_error_new(TR_USER,
                        "there is no instruction set '%s'%s%s%s; valid are auto, portable, avx2, "
                        "avx512, avx512_bf16, amx",
                        name, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

/* Reads at most size - 1 bytes of a small file; false when it cannot be read. */
static bool read_small(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    size_t length = fread(out, 1, size - 1, file);
    out[length] = 0;
    fclose(file);
    return length > 0;
}

/* A number in a file of its own; -1 when there is none ("max", or no file). */
static int64_t read_number(const char *directory, const char *name)
{
    char path[4608], text[64];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path ||
        !read_small(path, text, sizeof text) || !isdigit((unsigned char)text[0]))
        return -1;
    return strtoll(text, NULL, 10);
}

/* What the control groups above this process allow. A limit of a parent binds its children, so all
 * directories from the process's own up to the mount's root are asked. -1: no limit. */
typedef struct group_limits {
    double cores;
    int64_t memory_bytes, memory_left_bytes;
} group_limits;

static void lower(int64_t *limit, int64_t value)
{
    if (value >= 0 && (*limit < 0 || value < *limit))
        *limit = value;
}

static void ask_directory(const char *directory, group_limits *limits)
{
    char path[4608], text[128];
    double quota = -1, period = 100000;
    if (snprintf(path, sizeof path, "%s/cpu.max", directory) < (int)sizeof path &&
        read_small(path, text, sizeof text)) {
        if (sscanf(text, "%lf %lf", &quota, &period) < 1)
            quota = -1;
    } else {
        quota = (double)read_number(directory, "cpu.cfs_quota_us");
        period = (double)read_number(directory, "cpu.cfs_period_us");
    }
    if (quota > 0 && period > 0 && (limits->cores < 0 || quota / period < limits->cores))
        limits->cores = quota / period;
    static const char *const names[][2] = {{"memory.max", "memory.current"},
                                           {"memory.limit_in_bytes", "memory.usage_in_bytes"}};
    for (int i = 0; i < 2; i++) {
        int64_t limit = read_number(directory, names[i][0]),
                used = read_number(directory, names[i][1]);
        lower(&limits->memory_bytes, limit);
        if (limit >= 0 && used >= 0)
            lower(&limits->memory_left_bytes, limit > used ? limit - used : 0);
    }
}

static group_limits ask_groups(void)
{
    group_limits limits = {-1, -1, -1};
    char text[8192];
    if (!read_small("/proc/self/cgroup", text, sizeof text))
        return limits;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        /* "0::/user/x" in version 2, "4:cpu,cpuacct:/user/x" in version 1 */
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        controllers++;
        const char *root = "/sys/fs/cgroup";
        if (strstr(controllers, "memory"))
            root = "/sys/fs/cgroup/memory";
        else if (strncmp(controllers, "cpu", 3) == 0 && controllers[3] != 's')
            root = "/sys/fs/cgroup/cpu";
        else if (*controllers)
            continue;
        char directory[4352];
        if (snprintf(directory, sizeof directory, "%s%s", root, group) >= (int)sizeof directory)
            continue;
        size_t root_length = strlen(root);
        for (;;) {
            ask_directory(directory, &limits);
            char *slash = strrchr(directory, '/');
            if (!slash || strlen(directory) <= root_length)
                break;
            *slash = 0;
        }
    }
    return limits;
}

int tr_cpu_cores(void)
{
    int count = 0;
    /* The mask must be at least as large as the kernel's: try until it is. */
    for (int bits = 1024; bits <= 1 << 20 && !count; bits *= 4) {
        cpu_set_t *set = CPU_ALLOC(bits);
        if (!set)
            break;
        if (sched_getaffinity(0, CPU_ALLOC_SIZE(bits), set) == 0)
            count = CPU_COUNT_S(CPU_ALLOC_SIZE(bits), set);
        CPU_FREE(set);
    }
    if (count < 1)
        count = (int)TR_MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
    double quota = ask_groups().cores;
    /* A quota of 1.5 cores lets two threads run; more would only be throttled. */
    if (quota > 0 && quota < count)
        count = (int)quota + (quota > (int)quota);
    return count;
}

static int64_t meminfo(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoll(line + strlen(name), NULL, 10) * 1024 : 0;
}

tr_memory_facts tr_cpu_memory(void)
{
    char text[8192];
    if (!read_small("/proc/meminfo", text, sizeof text))
        return (tr_memory_facts){0};
    tr_memory_facts facts = {meminfo(text, "MemTotal:"), meminfo(text, "MemAvailable:")};
    group_limits limits = ask_groups();
    if (limits.memory_bytes >= 0 && limits.memory_bytes < facts.total_bytes)
        facts.total_bytes = limits.memory_bytes;
    if (limits.memory_left_bytes >= 0 && limits.memory_left_bytes < facts.available_bytes)
        facts.available_bytes = limits.memory_left_bytes;
    return facts;
}

void tr_cpu_name(char *out, int64_t size)
{
    snprintf(out, (size_t)size, "unknown processor");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (!file)
        return;
    char line[512];
    while (fgets(line, sizeof line, file)) {
        char *value = strchr(line, ':');
        if (!value || strncmp(line, "model name", 10) != 0)
            continue;
        value += 1 + strspn(value + 1, " \t");
        value[strcspn(value, "\n")] = 0;
        snprintf(out, (size_t)size, "%s", value);
        break;
    }
    fclose(file);
}
