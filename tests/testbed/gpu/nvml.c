/*
 * A stand-in for NVIDIA's libnvidia-ml.so.1, for tests and demonstrations.
 *
 * It is compiled against NVIDIA's own nvml.h, so every structure, enum and signature is
 * the real one and a change of the ABI fails the build. What it answers comes from a
 * text file (see state.py, which writes it); the file is read again whenever it changes,
 * so a test can lose a GPU or make a call hang while a program runs.
 *
 * Guarantees:
 *   - a handle stays valid for the life of the process and always means one UUID;
 *   - the lock is not held while a call is delayed, so one hanging GPU delays no other;
 *   - without TORCHROOM_SIMULATED_NVML_ALL=1 a GPU is visible only if the kernel lets
 *     this process open its device node, exactly as in a real container;
 *   - only functions of glibc <= 2.17 are used: the file is mounted into old images.
 */
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <nvml.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) nvmlReturn_t
#define DEFAULT_STATE "/run/torchroom-gpus/state"
#define NVIDIA_MAJOR 195
#define CONTROL_MINOR 255
#define CAPS_MAJOR 510 /* a real driver gets its number from the kernel */
#define NOT_MIG 0xFFFFFFFFu

enum {
    MAX_GPUS = 32,
    MAX_MIGS = 32 * 7,
    MAX_PROCS = 512,
    MAX_EVENTS = 256,
    MAX_FAULTS = 64,
    MAX_HANDLES = 1024,
    MAX_FIELDS = 64,
    MAX_FILE = 1 << 20,
    TEXT = 96,
};

typedef long long number;

struct link { char peer[TEXT]; int up; }; /* peer is a UUID or "switch" */

struct gpu {
    char uuid[TEXT], name[TEXT], serial[TEXT], path[TEXT], board[TEXT];
    unsigned domain, bus, dev;
    int cc_major, cc_minor, cpu_first, cpu_last;
    number index, minor, mem, reserved, used, util, memutil, temp, power, limit, energy,
        since, brand, numa, lost, mig, migmax, persistence, computemode, ecc, sbe_vol,
        dbe_vol, sbe_agg, dbe_agg, remap_cor, remap_unc, remap_pending, remap_failure,
        retired_pending, recovery, nvlinkver, clock, pciid, throttle;
    int links;
    struct link link[NVML_NVLINK_MAX_LINKS];
};
struct mig { char parent[TEXT], uuid[TEXT], name[TEXT]; number index, gi, ci, mem, sms, slices; };
struct proc { char uuid[TEXT], kind[16]; number pid, mem, sm, enc, dec, memutil, ran, ransm, live; };
struct event { char uuid[TEXT]; number seq, type, data, gi; };
struct fault { char fn[TEXT], uuid[TEXT]; number code, delay_ms; };

static struct {
    char driver[TEXT], nvml[TEXT];
    number cuda, mismatch, nodriver;
    int gpus, migs, procs, events, faults;
    struct gpu gpu[MAX_GPUS];
    struct mig mig[MAX_MIGS];
    struct proc proc[MAX_PROCS];
    struct event event[MAX_EVENTS];
    struct fault fault[MAX_FAULTS];
} S;

struct nvmlDevice_st { char uuid[TEXT]; };
struct nvmlEventSet_st {
    number seen;
    int watched;
    struct { nvmlDevice_t device; number types; } watch[MAX_HANDLES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvmlDevice_st handles[MAX_HANDLES];
static int handle_count, initialised, loaded;
static struct stat loaded_stat;

/* ---- the state file -------------------------------------------------------------- */

struct record { int fields; char *key[MAX_FIELDS], *value[MAX_FIELDS]; };

/* strtoll would bind to a symbol of glibc 2.38 when built there. */
static number to_number(const char *text)
{
    unsigned long long value = 0; /* unsigned: "no limit" is 2^64-1 */
    int negative = *text == '-';
    for (text += negative; *text >= '0' && *text <= '9'; text++)
        value = value * 10 + (unsigned)(*text - '0');
    return (number)(negative ? 0 - value : value);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

static unsigned to_hex(const char **text)
{
    unsigned value = 0;
    for (int d; (d = hex_digit(**text)) >= 0; (*text)++) value = value * 16 + (unsigned)d;
    if (**text) (*text)++; /* the separator */
    return value;
}

static void unquote(char *text)
{
    char *out = text;
    for (; *text; text++) {
        if (*text == '%' && hex_digit(text[1]) >= 0 && hex_digit(text[2]) >= 0) {
            *out++ = (char)(hex_digit(text[1]) * 16 + hex_digit(text[2]));
            text += 2;
        } else *out++ = *text;
    }
    *out = 0;
}

static const char *text_of(const struct record *r, const char *key, const char *otherwise)
{
    for (int i = 0; i < r->fields; i++)
        if (!strcmp(r->key[i], key)) return r->value[i];
    return otherwise;
}

static number number_of(const struct record *r, const char *key, number otherwise)
{
    const char *text = text_of(r, key, NULL);
    return text ? to_number(text) : otherwise;
}

static void copy(char *to, size_t size, const char *from) { snprintf(to, size, "%s", from); }
#define COPY(to, from) copy((to), sizeof(to), (from))

static struct gpu *gpu_of(const char *uuid)
{
    for (int i = 0; i < S.gpus; i++)
        if (!strcasecmp(S.gpu[i].uuid, uuid)) return &S.gpu[i];
    return NULL;
}

static struct mig *mig_of(const char *uuid)
{
    for (int i = 0; i < S.migs; i++)
        if (!strcasecmp(S.mig[i].uuid, uuid)) return &S.mig[i];
    return NULL;
}

static void read_gpu(const struct record *r)
{
    static const struct { const char *key; size_t at; number otherwise; } numbers[] = {
#define N(field, otherwise) { #field, offsetof(struct gpu, field), otherwise }
        N(index, 0), N(minor, 0), N(mem, 0), N(reserved, 0), N(used, 0), N(util, 0),
        N(memutil, 0), N(temp, 30), N(power, 60000), N(limit, 400000), N(energy, 0),
        N(since, 0), N(brand, NVML_BRAND_NVIDIA), N(numa, -1), N(lost, 0), N(mig, -1),
        N(migmax, 7), N(persistence, 1), N(computemode, 0), N(ecc, 1), N(sbe_vol, 0),
        N(dbe_vol, 0), N(sbe_agg, 0), N(dbe_agg, 0), N(remap_cor, 0), N(remap_unc, 0),
        N(remap_pending, 0), N(remap_failure, 0), N(retired_pending, 0), N(recovery, 0),
        N(nvlinkver, 0), N(clock, 1410), N(pciid, 0), N(throttle, 0),
#undef N
    };
    if (S.gpus == MAX_GPUS) return;
    struct gpu *g = &S.gpu[S.gpus++];
    memset(g, 0, sizeof *g);
    COPY(g->uuid, text_of(r, "uuid", ""));
    COPY(g->name, text_of(r, "name", "NVIDIA GPU (simulated)"));
    COPY(g->serial, text_of(r, "serial", ""));
    COPY(g->path, text_of(r, "path", "0/0"));
    COPY(g->board, text_of(r, "board", ""));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        *(number *)((char *)g + numbers[i].at) =
            number_of(r, numbers[i].key, numbers[i].otherwise);
    const char *pci = text_of(r, "pci", "0:0:0"), *cc = text_of(r, "cc", "8.0");
    g->domain = to_hex(&pci);
    g->bus = to_hex(&pci);
    g->dev = to_hex(&pci);
    g->cc_major = (int)to_number(cc);
    if ((cc = strchr(cc, '.'))) g->cc_minor = (int)to_number(cc + 1);
    const char *cpus = text_of(r, "cpus", "-1");
    g->cpu_first = (int)to_number(cpus);
    const char *dash = g->cpu_first < 0 ? NULL : strchr(cpus, '-');
    g->cpu_last = dash ? (int)to_number(dash + 1) : g->cpu_first;
}

static void read_record(const char *kind, const struct record *r)
{
    const char *uuid = text_of(r, "uuid", "*");
    if (!strcmp(kind, "system")) {
        COPY(S.driver, text_of(r, "driver", "0"));
        COPY(S.nvml, text_of(r, "nvml", "0"));
        S.cuda = number_of(r, "cuda", 0);
        S.mismatch = number_of(r, "mismatch", 0);
        S.nodriver = number_of(r, "nodriver", 0);
    } else if (!strcmp(kind, "gpu")) {
        read_gpu(r);
    } else if (!strcmp(kind, "nvlink")) {
        struct gpu *g = gpu_of(uuid);
        number count = number_of(r, "count", 1), down = number_of(r, "down", 0);
        for (number i = 0; g && i < count && g->links < NVML_NVLINK_MAX_LINKS; i++) {
            struct link *l = &g->link[g->links++];
            COPY(l->peer, text_of(r, "peer", "switch"));
            l->up = i < count - down;
        }
    } else if (!strcmp(kind, "mig") && S.migs < MAX_MIGS) {
        struct mig *m = &S.mig[S.migs++];
        COPY(m->parent, text_of(r, "gpu", ""));
        COPY(m->uuid, uuid);
        COPY(m->name, text_of(r, "name", "MIG (simulated)"));
        m->index = number_of(r, "index", 0);
        m->gi = number_of(r, "gi", 1);
        m->ci = number_of(r, "ci", 0);
        m->mem = number_of(r, "mem", 0);
        m->sms = number_of(r, "sms", 14);
        m->slices = number_of(r, "slices", 1);
    } else if (!strcmp(kind, "proc") && S.procs < MAX_PROCS) {
        struct proc *p = &S.proc[S.procs++];
        COPY(p->uuid, uuid);
        COPY(p->kind, text_of(r, "kind", "compute"));
        p->pid = number_of(r, "pid", 0);
        p->mem = number_of(r, "mem", 0);
        p->sm = number_of(r, "sm", 0);
        p->enc = number_of(r, "enc", 0);
        p->dec = number_of(r, "dec", 0);
        p->memutil = number_of(r, "memutil", 0);
        p->ran = number_of(r, "ran", 0);
        p->ransm = number_of(r, "ransm", 0);
        p->live = number_of(r, "live", 0);
    } else if (!strcmp(kind, "event") && S.events < MAX_EVENTS) {
        struct event *e = &S.event[S.events++];
        COPY(e->uuid, uuid);
        e->seq = number_of(r, "seq", 0);
        e->type = number_of(r, "type", nvmlEventTypeXidCriticalError);
        e->data = number_of(r, "data", 0);
        e->gi = number_of(r, "gi", -1);
    } else if (!strcmp(kind, "fault") && S.faults < MAX_FAULTS) {
        struct fault *f = &S.fault[S.faults++];
        COPY(f->fn, text_of(r, "fn", "*"));
        COPY(f->uuid, uuid);
        f->code = number_of(r, "code", 0);
        f->delay_ms = number_of(r, "delay_ms", 0);
    }
}

static void parse(char *text)
{
    memset(&S, 0, offsetof(__typeof__(S), gpu));
    char *rest_of_file = NULL;
    for (char *line = strtok_r(text, "\n", &rest_of_file); line;
         line = strtok_r(NULL, "\n", &rest_of_file)) {
        if (*line == '#') continue;
        struct record r = { 0 };
        char *rest = NULL, *kind = strtok_r(line, " ", &rest);
        for (char *f; (f = strtok_r(NULL, " ", &rest)) && r.fields < MAX_FIELDS;) {
            char *equals = strchr(f, '=');
            if (!equals) continue;
            *equals = 0;
            unquote(equals + 1);
            r.key[r.fields] = f;
            r.value[r.fields++] = equals + 1;
        }
        if (kind) read_record(kind, &r);
    }
}

static const char *state_path(void)
{
    const char *path = getenv("TORCHROOM_SIMULATED_NVML_STATE");
    return path && *path ? path : DEFAULT_STATE;
}

/* stat() is a symbol of glibc 2.33; the system call is not. */
static int stat_of(const char *path, struct stat *st)
{
#ifdef SYS_newfstatat
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, 0);
#else
    return stat(path, st);
#endif
}

static int same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size
        && a->st_mtim.tv_sec == b->st_mtim.tv_sec
        && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec
        && a->st_ctim.tv_sec == b->st_ctim.tv_sec
        && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* Takes the newest state; what was read last stays if the file cannot be read. */
static void reload(void)
{
    struct stat now;
    if (stat_of(state_path(), &now) || (loaded && same_file(&now, &loaded_stat))) return;
    if (now.st_size > MAX_FILE) return;
    int fd = open(state_path(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    char *text = malloc((size_t)now.st_size + 1);
    size_t got = 0;
    for (ssize_t n; text && got < (size_t)now.st_size; got += (size_t)n)
        if ((n = read(fd, text + got, (size_t)now.st_size - got)) <= 0) break;
    close(fd);
    if (text && got == (size_t)now.st_size) {
        text[got] = 0;
        parse(text);
        loaded_stat = now;
        loaded = 1;
    }
    free(text);
}

/* ---- who may see what ------------------------------------------------------------ */

/* 0 if the kernel grants this node to this process, else the reason. There is no
 * driver behind a granted node, so ENXIO is what "granted" looks like. */
static int node_refused(const char *path, unsigned major_, unsigned minor_)
{
    struct stat st;
    if (stat_of(path, &st)) return errno;
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(major_, minor_)) return ENOENT;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return errno == ENXIO || errno == ENODEV ? 0 : errno;
    close(fd);
    return 0;
}

static int sees_all(void)
{
    const char *all = getenv("TORCHROOM_SIMULATED_NVML_ALL");
    return all && !strcmp(all, "1");
}

static int sees_gpu(const struct gpu *g)
{
    char path[32];
    if (sees_all()) return 1;
    snprintf(path, sizeof path, "/dev/nvidia%lld", g->minor);
    return !node_refused(path, NVIDIA_MAJOR, (unsigned)g->minor);
}

static int sees_mig(const struct gpu *g, const struct mig *m)
{
    char path[64];
    if (sees_all()) return 1;
    number gi = 3 + g->minor * 135 + m->gi * 9, caps[2] = { gi, gi + 1 + m->ci };
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/dev/nvidia-caps/nvidia-cap%lld", caps[i]);
        if (node_refused(path, CAPS_MAJOR, (unsigned)caps[i])) return 0;
    }
    return 1;
}

static nvmlDevice_t handle_of(const char *uuid)
{
    for (int i = 0; i < handle_count; i++)
        if (!strcmp(handles[i].uuid, uuid)) return &handles[i];
    if (handle_count == MAX_HANDLES) return NULL;
    COPY(handles[handle_count].uuid, uuid);
    return &handles[handle_count++];
}

/* ---- entering and leaving a call ------------------------------------------------- */

static number now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (number)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static number monotonic_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (number)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void nap_ms(number ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

/* The last matching fault wins. A MIG instance suffers its parent's faults too. */
static const struct fault *fault_for(const char *fn, const char *uuid)
{
    const struct mig *m = uuid ? mig_of(uuid) : NULL;
    for (int i = S.faults - 1; i >= 0; i--) {
        const struct fault *f = &S.fault[i];
        if (strcmp(f->fn, "*") && strcmp(f->fn, fn)) continue;
        if (!strcmp(f->uuid, "*")) return f;
        if (uuid && !strcasecmp(f->uuid, uuid)) return f;
        if (m && !strcasecmp(f->uuid, m->parent)) return f;
    }
    return NULL;
}

/* Takes the lock and the newest state, serves delays without the lock, and returns a
 * scripted error with the lock released. A delay ends early when its fault is cleared. */
static nvmlReturn_t begin(const char *fn, const char *uuid)
{
    pthread_mutex_lock(&lock);
    reload();
    number started = monotonic_ms();
    const struct fault *f;
    while ((f = fault_for(fn, uuid)) && monotonic_ms() - started < f->delay_ms) {
        number left = f->delay_ms - (monotonic_ms() - started);
        pthread_mutex_unlock(&lock);
        nap_ms(left < 5 ? left : 5);
        pthread_mutex_lock(&lock);
        reload();
    }
    nvmlReturn_t code = f ? (nvmlReturn_t)f->code : NVML_SUCCESS;
    if (code) pthread_mutex_unlock(&lock);
    return code;
}

static nvmlReturn_t done(nvmlReturn_t code)
{
    pthread_mutex_unlock(&lock);
    return code;
}

static nvmlReturn_t enter(const char *fn)
{
    nvmlReturn_t code = begin(fn, NULL);
    if (code) return code;
    return initialised ? NVML_SUCCESS : done(NVML_ERROR_UNINITIALIZED);
}

/* Fills g (the GPU, or a MIG instance's parent) and m (the instance or NULL). */
static nvmlReturn_t enter_device(
    const char *fn, nvmlDevice_t device, struct gpu **g, struct mig **m)
{
    int known = device >= handles && device < handles + MAX_HANDLES;
    nvmlReturn_t code = begin(fn, known ? device->uuid : NULL);
    if (code) return code;
    if (!initialised) return done(NVML_ERROR_UNINITIALIZED);
    if (!known || device >= handles + handle_count) return done(NVML_ERROR_INVALID_ARGUMENT);
    *m = mig_of(device->uuid);
    *g = gpu_of(*m ? (*m)->parent : device->uuid);
    if (!*g || (*g)->lost) return done(NVML_ERROR_GPU_IS_LOST);
    return NVML_SUCCESS;
}

#define ENTER() do { nvmlReturn_t c_ = enter(__func__); if (c_) return c_; } while (0)
#define ENTER_ANY(device) \
    struct gpu *g = NULL; struct mig *m = NULL; \
    do { nvmlReturn_t c_ = enter_device(__func__, device, &g, &m); if (c_) return c_; } while (0); \
    (void)g; (void)m
#define ENTER_GPU(device) \
    ENTER_ANY(device); if (m) return done(NVML_ERROR_NOT_SUPPORTED)
#define NEED(condition) if (!(condition)) return done(NVML_ERROR_INVALID_ARGUMENT)
#define DONE return done(NVML_SUCCESS)

static nvmlReturn_t put(char *to, unsigned length, const char *text)
{
    if (!to) return done(NVML_ERROR_INVALID_ARGUMENT);
    if (strlen(text) + 1 > length) return done(NVML_ERROR_INSUFFICIENT_SIZE);
    copy(to, length, text);
    DONE;
}

/* Generated stubs come here, so that a fault can be scripted for any function. */
__attribute__((visibility("hidden"))) nvmlReturn_t simulated_stub(const char *fn)
{
    nvmlReturn_t code = begin(fn, NULL);
    return code ? code : done(NVML_ERROR_NOT_SUPPORTED);
}

/* ---- library and system ---------------------------------------------------------- */

static nvmlReturn_t start(const char *fn)
{
    nvmlReturn_t code = begin(fn, NULL);
    if (code) return code;
    if (!loaded || S.nodriver) return done(NVML_ERROR_DRIVER_NOT_LOADED);
    if (S.mismatch) return done(NVML_ERROR_LIB_RM_VERSION_MISMATCH);
    if (!sees_all()) {
        int refused = node_refused("/dev/nvidiactl", NVIDIA_MAJOR, CONTROL_MINOR);
        if (refused == ENOENT) return done(NVML_ERROR_DRIVER_NOT_LOADED);
        if (refused == EACCES) return done(NVML_ERROR_NO_PERMISSION);
        if (refused) return done(NVML_ERROR_UNKNOWN);
    }
    initialised++;
    DONE;
}

API nvmlInitWithFlags(unsigned int flags) { (void)flags; return start(__func__); }
API nvmlInit_v2(void) { return start(__func__); }
API nvmlInit(void) { return start(__func__); }
API nvmlShutdown(void) { ENTER(); initialised--; DONE; }

__attribute__((visibility("default"))) const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_OPERATING_SYSTEM: return "Operating System Error";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires restart";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

API nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    ENTER(); return put(version, length, S.driver);
}
API nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    ENTER(); return put(version, length, S.nvml);
}
API nvmlSystemGetCudaDriverVersion(int *version)
{
    ENTER(); NEED(version); *version = (int)S.cuda; DONE;
}
API nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    ENTER(); NEED(version); *version = (int)S.cuda; DONE;
}
API nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    ENTER();
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return done(NVML_ERROR_NOT_FOUND);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return put(name, length, text);
}

/* ---- finding devices ------------------------------------------------------------- */

static nvmlReturn_t count_visible(unsigned int *count)
{
    NEED(count);
    *count = 0;
    for (int i = 0; i < S.gpus; i++) *count += (unsigned)sees_gpu(&S.gpu[i]);
    DONE;
}
API nvmlDeviceGetCount_v2(unsigned int *count) { ENTER(); return count_visible(count); }
API nvmlDeviceGetCount(unsigned int *count) { ENTER(); return count_visible(count); }

/* Gives the handle, unless its GPU cannot be opened now. */
static nvmlReturn_t hand_out(const struct gpu *g, const char *uuid, nvmlDevice_t *device)
{
    if (g->lost) return done(NVML_ERROR_GPU_IS_LOST);
    *device = handle_of(uuid);
    return done(*device ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_RESOURCES);
}

/* An index counts only the GPUs that this process sees, as in a real container. */
static nvmlReturn_t by_index(unsigned int index, nvmlDevice_t *device)
{
    NEED(device);
    for (int i = 0; i < S.gpus; i++)
        if (sees_gpu(&S.gpu[i]) && index-- == 0)
            return hand_out(&S.gpu[i], S.gpu[i].uuid, device);
    return done(NVML_ERROR_INVALID_ARGUMENT);
}
API nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    ENTER(); return by_index(index, device);
}
API nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    ENTER(); return by_index(index, device);
}

API nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    ENTER();
    NEED(uuid && device);
    const struct mig *m = mig_of(uuid);
    const struct gpu *g = gpu_of(m ? m->parent : uuid);
    if (!g || !sees_gpu(g) || (m && !sees_mig(g, m))) return done(NVML_ERROR_NOT_FOUND);
    return hand_out(g, m ? m->uuid : g->uuid, device);
}

static nvmlReturn_t by_pci(const char *bus_id, nvmlDevice_t *device)
{
    NEED(bus_id && device);
    unsigned domain = to_hex(&bus_id), bus = to_hex(&bus_id), dev = to_hex(&bus_id);
    for (int i = 0; i < S.gpus; i++) {
        const struct gpu *g = &S.gpu[i];
        if (g->domain == domain && g->bus == bus && g->dev == dev && sees_gpu(g))
            return hand_out(g, g->uuid, device);
    }
    return done(NVML_ERROR_NOT_FOUND);
}
API nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    ENTER(); return by_pci(bus_id, device);
}
API nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device)
{
    ENTER(); return by_pci(bus_id, device);
}

/* ---- what a device is ------------------------------------------------------------ */

API nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    ENTER_ANY(device); return put(name, length, m ? m->name : g->name);
}
API nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    ENTER_ANY(device); return put(uuid, length, m ? m->uuid : g->uuid);
}
API nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    ENTER_GPU(device);
    if (!*g->serial) return done(NVML_ERROR_NOT_SUPPORTED);
    return put(serial, length, g->serial);
}
API nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    ENTER_ANY(device);
    NEED(index);
    if (m) { *index = (unsigned)m->index; DONE; }
    *index = 0;
    for (const struct gpu *other = S.gpu; other < g; other++)
        *index += (unsigned)sees_gpu(other);
    DONE;
}
API nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor_)
{
    ENTER_GPU(device); NEED(minor_); *minor_ = (unsigned)g->minor; DONE;
}
API nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand)
{
    ENTER_GPU(device); NEED(brand); *brand = (nvmlBrandType_t)g->brand; DONE;
}
API nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major_, int *minor_)
{
    ENTER_ANY(device);
    NEED(major_ && minor_);
    *major_ = g->cc_major;
    *minor_ = g->cc_minor;
    DONE;
}
API nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)
{
    ENTER_ANY(device);
    NEED(arch);
    int cc = g->cc_major * 10 + g->cc_minor;
    *arch = cc >= 100 ? NVML_DEVICE_ARCH_BLACKWELL
        : cc >= 90    ? NVML_DEVICE_ARCH_HOPPER
        : cc >= 89    ? NVML_DEVICE_ARCH_ADA
        : cc >= 80    ? NVML_DEVICE_ARCH_AMPERE
        : cc >= 75    ? NVML_DEVICE_ARCH_TURING
        : cc >= 70    ? NVML_DEVICE_ARCH_VOLTA
                      : NVML_DEVICE_ARCH_PASCAL;
    DONE;
}

static void fill_pci(nvmlPciInfo_t *pci, unsigned domain, unsigned bus, unsigned dev)
{
    memset(pci, 0, sizeof *pci);
    pci->domain = domain;
    pci->bus = bus;
    pci->device = dev;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT,
        domain & 0xFFFF, bus & 0xFF, dev & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, domain, bus, dev);
}
static nvmlReturn_t pci_info(const struct gpu *g, nvmlPciInfo_t *pci)
{
    NEED(pci);
    fill_pci(pci, g->domain, g->bus, g->dev);
    pci->pciDeviceId = (unsigned)g->pciid;
    DONE;
}
API nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    ENTER_ANY(device); return pci_info(g, pci);
}
API nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    ENTER_ANY(device); return pci_info(g, pci);
}

/* ---- readings -------------------------------------------------------------------- */

static int alive(const struct proc *p)
{
    return !p->live || kill((pid_t)p->pid, 0) == 0 || errno != ESRCH;
}

static int runs_on(const struct proc *p, const struct gpu *g, const struct mig *m)
{
    if (!alive(p)) return 0;
    if (m) return !strcasecmp(p->uuid, m->uuid);
    if (!strcasecmp(p->uuid, g->uuid)) return 1;
    const struct mig *on = mig_of(p->uuid);
    return on && !strcasecmp(on->parent, g->uuid);
}

static number memory_used(const struct gpu *g, const struct mig *m)
{
    number used = m ? 0 : g->used;
    for (int i = 0; i < S.procs; i++)
        if (runs_on(&S.proc[i], g, m) && S.proc[i].mem > 0) used += S.proc[i].mem;
    number total = m ? m->mem : g->mem;
    return used < total ? used : total;
}

API nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    ENTER_ANY(device);
    NEED(memory);
    number total = m ? m->mem : g->mem, used = memory_used(g, m);
    used += m ? 0 : g->reserved; /* version 1 counts what the driver keeps as used */
    if (used > total) used = total;
    memory->total = (unsigned long long)total;
    memory->used = (unsigned long long)used;
    memory->free = (unsigned long long)(total - used);
    DONE;
}
API nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    ENTER_ANY(device);
    NEED(memory);
    if (memory->version != nvmlMemory_v2) return done(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    number total = m ? m->mem : g->mem, kept = m ? 0 : g->reserved;
    number used = memory_used(g, m);
    if (used > total - kept) used = total - kept;
    memory->total = (unsigned long long)total;
    memory->reserved = (unsigned long long)kept;
    memory->used = (unsigned long long)used;
    memory->free = (unsigned long long)(total - kept - used);
    DONE;
}

/* nvml.h: not supported on a MIG-enabled GPU, nor on its instances. */
API nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
    ENTER_GPU(device);
    NEED(utilization);
    if (g->mig == 1) return done(NVML_ERROR_NOT_SUPPORTED);
    utilization->gpu = (unsigned)g->util;
    utilization->memory = (unsigned)g->memutil;
    DONE;
}
API nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type,
    unsigned long long last_seen, nvmlValueType_t *value_type, unsigned int *count,
    nvmlSample_t *samples)
{
    ENTER_GPU(device);
    NEED(value_type && count);
    number value;
    if (type == NVML_TOTAL_POWER_SAMPLES) value = g->power;
    else if (type == NVML_GPU_UTILIZATION_SAMPLES) value = g->util;
    else if (type == NVML_MEMORY_UTILIZATION_SAMPLES) value = g->memutil;
    else return done(NVML_ERROR_NOT_SUPPORTED);
    if (g->mig == 1 && type != NVML_TOTAL_POWER_SAMPLES) return done(NVML_ERROR_NOT_SUPPORTED);
    /* One sample every 1/6 s; the driver's buffer holds about 100 of them. */
    enum { STEP = 166667, KEPT = 100 };
    number newest = now_us() / STEP, oldest = newest - KEPT + 1;
    if ((number)last_seen / STEP + 1 > oldest) oldest = (number)last_seen / STEP + 1;
    if (oldest > newest) return done(NVML_ERROR_NOT_FOUND);
    unsigned have = (unsigned)(newest - oldest + 1);
    *value_type = NVML_VALUE_TYPE_UNSIGNED_INT;
    if (!samples) { *count = have; DONE; }
    if (*count > have) *count = have;
    for (unsigned i = 0; i < *count; i++) {
        samples[i].timeStamp = (unsigned long long)((newest - *count + 1 + i) * STEP);
        samples[i].sampleValue.ullVal = (unsigned long long)value;
    }
    DONE;
}

API nvmlDeviceGetTemperature(
    nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *temp)
{
    ENTER_GPU(device);
    NEED(temp && sensor == NVML_TEMPERATURE_GPU);
    *temp = (unsigned)g->temp;
    DONE;
}
API nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    ENTER_GPU(device);
    NEED(temperature);
    if (temperature->version != nvmlTemperature_v1)
        return done(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    NEED(temperature->sensorType == NVML_TEMPERATURE_GPU);
    temperature->temperature = (int)g->temp;
    DONE;
}

static unsigned long long energy_mj(const struct gpu *g)
{
    number mj = g->energy;
    if (g->since) mj += g->power * ((now_us() - g->since) / 1000) / 1000;
    return (unsigned long long)mj;
}

#define READING(name, type, expression) \
    API name(nvmlDevice_t device, type *value) \
    { ENTER_GPU(device); NEED(value); *value = (type)(expression); DONE; }
READING(nvmlDeviceGetPowerUsage, unsigned int, g->power)
READING(nvmlDeviceGetPowerManagementLimit, unsigned int, g->limit)
READING(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, g->limit)
READING(nvmlDeviceGetEnforcedPowerLimit, unsigned int, g->limit)
READING(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, energy_mj(g))
READING(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, g->persistence)
READING(nvmlDeviceGetComputeMode, nvmlComputeMode_t, g->computemode)
READING(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
READING(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, g->throttle)
READING(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, g->throttle)
READING(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, g->cc_major >= 9 ? 5 : 4)
READING(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, g->cc_major >= 9 ? 5 : 4)
READING(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, 16)
READING(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, 16)

API nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
    ENTER_GPU(device); NEED(clock); (void)type; *clock = (unsigned)g->clock; DONE;
}
API nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
    ENTER_GPU(device); NEED(clock); (void)type; *clock = (unsigned)g->clock; DONE;
}

/* ---- health ---------------------------------------------------------------------- */

API nvmlDeviceGetEccMode(
    nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    ENTER_GPU(device);
    NEED(current && pending);
    if (g->ecc < 0) return done(NVML_ERROR_NOT_SUPPORTED);
    *current = *pending = (nvmlEnableState_t)g->ecc;
    DONE;
}

static number ecc_count(const struct gpu *g, int corrected, int is_volatile)
{
    return is_volatile ? (corrected ? g->sbe_vol : g->dbe_vol)
                       : (corrected ? g->sbe_agg : g->dbe_agg);
}
API nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t error,
    nvmlEccCounterType_t counter, unsigned long long *count)
{
    ENTER_GPU(device);
    NEED(count);
    if (g->ecc != 1) return done(NVML_ERROR_NOT_SUPPORTED);
    *count = (unsigned long long)ecc_count(
        g, error == NVML_MEMORY_ERROR_TYPE_CORRECTED, counter == NVML_VOLATILE_ECC);
    DONE;
}
API nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t error,
    nvmlEccCounterType_t counter, nvmlMemoryLocation_t where, unsigned long long *count)
{
    ENTER_GPU(device);
    NEED(count);
    if (g->ecc != 1) return done(NVML_ERROR_NOT_SUPPORTED);
    /* Everything counted is counted in the device's memory. */
    *count = where != NVML_MEMORY_LOCATION_DRAM ? 0 : (unsigned long long)ecc_count(
        g, error == NVML_MEMORY_ERROR_TYPE_CORRECTED, counter == NVML_VOLATILE_ECC);
    DONE;
}

/* Rows are remapped since Ampere; before, pages were retired. */
static int remaps_rows(const struct gpu *g) { return g->cc_major >= 8 && g->mig != 1; }

API nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected,
    unsigned int *uncorrected, unsigned int *pending, unsigned int *failure)
{
    ENTER_GPU(device);
    NEED(corrected && uncorrected && pending && failure);
    if (!remaps_rows(g)) return done(NVML_ERROR_NOT_SUPPORTED);
    *corrected = (unsigned)g->remap_cor;
    *uncorrected = (unsigned)g->remap_unc;
    *pending = (unsigned)g->remap_pending;
    *failure = (unsigned)g->remap_failure;
    DONE;
}
API nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, nvmlEnableState_t *pending)
{
    ENTER_GPU(device);
    NEED(pending);
    if (g->cc_major >= 8) return done(NVML_ERROR_NOT_SUPPORTED);
    *pending = (nvmlEnableState_t)g->retired_pending;
    DONE;
}

static int switch_links(const struct gpu *g)
{
    int count = 0;
    for (int i = 0; i < g->links; i++) count += !strcmp(g->link[i].peer, "switch");
    return count;
}

static nvmlReturn_t field(const struct gpu *g, nvmlFieldValue_t *f)
{
    number value;
    switch (f->fieldId) {
    case NVML_FI_DEV_ECC_CURRENT: case NVML_FI_DEV_ECC_PENDING: value = g->ecc; break;
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: value = g->sbe_vol; break;
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: value = g->dbe_vol; break;
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: value = g->sbe_agg; break;
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: value = g->dbe_agg; break;
    case NVML_FI_DEV_RETIRED_PENDING: value = g->retired_pending; break;
    case NVML_FI_DEV_MEMORY_TEMP: value = g->temp; break;
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: case NVML_FI_DEV_ENERGY:
        value = (number)energy_mj(g); break;
    case NVML_FI_DEV_NVLINK_LINK_COUNT: value = g->links; break;
    case NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT: value = switch_links(g); break;
    case NVML_FI_DEV_REMAPPED_COR: value = g->remap_cor; break;
    case NVML_FI_DEV_REMAPPED_UNC: value = g->remap_unc; break;
    case NVML_FI_DEV_REMAPPED_PENDING: value = g->remap_pending; break;
    case NVML_FI_DEV_REMAPPED_FAILURE: value = g->remap_failure; break;
    case NVML_FI_DEV_POWER_AVERAGE: case NVML_FI_DEV_POWER_INSTANT: value = g->power; break;
    case NVML_FI_DEV_POWER_CURRENT_LIMIT: value = g->limit; break;
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: value = g->recovery; break;
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
    if (f->fieldId <= NVML_FI_DEV_ECC_DBE_AGG_TOTAL && g->ecc < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (f->fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION && g->recovery < 0)
        return NVML_ERROR_NOT_SUPPORTED; /* a driver that does not know the field */
    if (f->fieldId == NVML_FI_DEV_RETIRED_PENDING && g->cc_major >= 8)
        return NVML_ERROR_NOT_SUPPORTED;
    if (f->fieldId >= NVML_FI_DEV_REMAPPED_COR && f->fieldId <= NVML_FI_DEV_REMAPPED_FAILURE
        && !remaps_rows(g))
        return NVML_ERROR_NOT_SUPPORTED;
    int wide = f->fieldId <= NVML_FI_DEV_ECC_DBE_AGG_TOTAL
        || f->fieldId == NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION
        || f->fieldId == NVML_FI_DEV_ENERGY;
    f->valueType = wide ? NVML_VALUE_TYPE_UNSIGNED_LONG_LONG : NVML_VALUE_TYPE_UNSIGNED_INT;
    f->value.ullVal = (unsigned long long)value;
    return NVML_SUCCESS;
}

API nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    ENTER_GPU(device);
    NEED(values && count > 0);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = now_us();
        values[i].latencyUsec = 0;
        values[i].nvmlReturn = field(g, &values[i]);
    }
    DONE;
}

/* ---- topology -------------------------------------------------------------------- */

/* path is numa/hostbridge[/switch...]: the longest common head is the level. */
static nvmlGpuTopologyLevel_t level_between(const struct gpu *a, const struct gpu *b)
{
    if (*a->board && !strcmp(a->board, b->board)) return NVML_TOPOLOGY_INTERNAL;
    const char *p = a->path, *q = b->path;
    int common = 0;
    while (*p && *q) {
        size_t n = strcspn(p, "/"), k = strcspn(q, "/");
        if (n != k || strncmp(p, q, n)) break;
        common++;
        p += n + (p[n] == '/');
        q += k + (q[k] == '/');
    }
    if (common == 0) return NVML_TOPOLOGY_SYSTEM;
    if (common == 1) return NVML_TOPOLOGY_NODE;
    if (common == 2) return NVML_TOPOLOGY_HOSTBRIDGE;
    return *p || *q ? NVML_TOPOLOGY_MULTIPLE : NVML_TOPOLOGY_SINGLE;
}

/* Both devices of a call, under the lock that enter_device has taken. */
static struct gpu *other_gpu(nvmlDevice_t device)
{
    if (device < handles || device >= handles + handle_count) return NULL;
    const struct mig *m = mig_of(device->uuid);
    return gpu_of(m ? m->parent : device->uuid);
}

API nvmlDeviceGetTopologyCommonAncestor(
    nvmlDevice_t device, nvmlDevice_t device2, nvmlGpuTopologyLevel_t *level)
{
    ENTER_GPU(device);
    const struct gpu *h = other_gpu(device2);
    NEED(h && level);
    if (h->lost) return done(NVML_ERROR_GPU_IS_LOST);
    *level = g == h ? NVML_TOPOLOGY_INTERNAL : level_between(g, h);
    DONE;
}
API nvmlDeviceOnSameBoard(nvmlDevice_t device, nvmlDevice_t device2, int *same)
{
    ENTER_GPU(device);
    const struct gpu *h = other_gpu(device2);
    NEED(h && same);
    *same = g == h || (*g->board && !strcmp(g->board, h->board));
    DONE;
}

static int links_between(const struct gpu *a, const struct gpu *b)
{
    int direct = 0, switched_a = 0, switched_b = 0;
    for (int i = 0; i < a->links; i++) {
        if (!a->link[i].up) continue;
        direct += !strcasecmp(a->link[i].peer, b->uuid);
        switched_a += !strcmp(a->link[i].peer, "switch");
    }
    for (int i = 0; i < b->links; i++)
        switched_b += b->link[i].up && !strcmp(b->link[i].peer, "switch");
    return direct + (switched_a < switched_b ? switched_a : switched_b);
}

API nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t device2,
    nvmlGpuP2PCapsIndex_t index, nvmlGpuP2PStatus_t *status)
{
    ENTER_GPU(device);
    const struct gpu *h = other_gpu(device2);
    NEED(h && status && index < NVML_P2P_CAPS_INDEX_UNKNOWN);
    if (h->lost) return done(NVML_ERROR_GPU_IS_LOST);
    int nvlink = links_between(g, h) > 0;
    int pci = level_between(g, h) < NVML_TOPOLOGY_SYSTEM;
    int ok = index == NVML_P2P_CAPS_INDEX_NVLINK || index == NVML_P2P_CAPS_INDEX_ATOMICS
        ? nvlink : nvlink || pci;
    *status = ok ? NVML_P2P_STATUS_OK : NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED;
    if (!ok && index == NVML_P2P_CAPS_INDEX_NVLINK) *status = NVML_P2P_STATUS_NOT_SUPPORTED;
    DONE;
}

#define ENTER_LINK(device, number_, out) \
    ENTER_GPU(device); \
    if (!g->links) return done(NVML_ERROR_NOT_SUPPORTED); \
    NEED((number_) < (unsigned)g->links && (out)); \
    const struct link *l = &g->link[number_]; \
    const struct gpu *peer = gpu_of(l->peer); \
    int up = l->up && !(peer && peer->lost)

API nvmlDeviceGetNvLinkState(
    nvmlDevice_t device, unsigned int link, nvmlEnableState_t *active)
{
    ENTER_LINK(device, link, active);
    *active = up ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    DONE;
}
API nvmlDeviceGetNvLinkVersion(
    nvmlDevice_t device, unsigned int link, unsigned int *version)
{
    ENTER_LINK(device, link, version); (void)up; *version = (unsigned)g->nvlinkver; DONE;
}
API nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, unsigned int link,
    nvmlNvLinkCapability_t capability, unsigned int *result)
{
    ENTER_LINK(device, link, result);
    *result = up && capability != NVML_NVLINK_CAP_SLI_BRIDGE;
    DONE;
}
API nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link,
    nvmlNvLinkErrorCounter_t counter, unsigned long long *value)
{
    ENTER_LINK(device, link, value); (void)up; (void)counter; *value = 0; DONE;
}
API nvmlDeviceGetNvLinkRemoteDeviceType(
    nvmlDevice_t device, unsigned int link, nvmlIntNvLinkDeviceType_t *type)
{
    ENTER_LINK(device, link, type);
    if (!up) return done(NVML_ERROR_NOT_SUPPORTED);
    *type = peer ? NVML_NVLINK_DEVICE_TYPE_GPU : NVML_NVLINK_DEVICE_TYPE_SWITCH;
    DONE;
}
static nvmlReturn_t remote_pci(
    int up, unsigned link, const struct gpu *peer, nvmlPciInfo_t *pci)
{
    if (!up) return done(NVML_ERROR_NOT_SUPPORTED);
    if (peer) fill_pci(pci, peer->domain, peer->bus, peer->dev);
    else fill_pci(pci, 0, 0xC4 + link % 6, 0); /* six switches, like an HGX board */
    DONE;
}
API nvmlDeviceGetNvLinkRemotePciInfo_v2(
    nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci)
{
    ENTER_LINK(device, link, pci); return remote_pci(up, link, peer, pci);
}
API nvmlDeviceGetNvLinkRemotePciInfo(
    nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci)
{
    ENTER_LINK(device, link, pci); return remote_pci(up, link, peer, pci);
}

/* nvmlDeviceGetNumaNodeId is a stub: nvml.h has it only for platforms whose GPUs are
 * NUMA nodes themselves. Where a GPU is near to is told by its memory affinity. */
static void set_bits(unsigned size, unsigned long *set, int first, int last)
{
    enum { BITS = 8 * sizeof(long) };
    memset(set, 0, size * sizeof *set);
    for (int i = first; i >= 0 && i <= last && i < (int)size * BITS; i++)
        set[i / BITS] |= 1ul << (i % BITS);
}
static nvmlReturn_t cpu_affinity(const struct gpu *g, unsigned size, unsigned long *set)
{
    NEED(set && size);
    if (g->cpu_first < 0) return done(NVML_ERROR_NOT_SUPPORTED);
    set_bits(size, set, g->cpu_first, g->cpu_last);
    DONE;
}
API nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int size, unsigned long *set)
{
    ENTER_GPU(device); return cpu_affinity(g, size, set);
}
API nvmlDeviceGetCpuAffinityWithinScope(
    nvmlDevice_t device, unsigned int size, unsigned long *set, nvmlAffinityScope_t scope)
{
    ENTER_GPU(device); (void)scope; return cpu_affinity(g, size, set);
}
API nvmlDeviceGetMemoryAffinity(
    nvmlDevice_t device, unsigned int size, unsigned long *set, nvmlAffinityScope_t scope)
{
    ENTER_GPU(device);
    (void)scope;
    NEED(set && size);
    if (g->numa < 0) return done(NVML_ERROR_NOT_SUPPORTED);
    set_bits(size, set, (int)g->numa, (int)g->numa);
    DONE;
}

/* ---- MIG ------------------------------------------------------------------------- */

API nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    ENTER_GPU(device);
    NEED(current && pending);
    if (g->mig < 0) return done(NVML_ERROR_NOT_SUPPORTED);
    *current = *pending = (unsigned)g->mig;
    DONE;
}
API nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    ENTER_GPU(device); NEED(count); *count = g->mig < 0 ? 0 : (unsigned)g->migmax; DONE;
}
/* Indexes have holes: NOT_FOUND says nothing about the next index. */
API nvmlDeviceGetMigDeviceHandleByIndex(
    nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig)
{
    ENTER_GPU(device);
    NEED(mig);
    if (g->mig < 0) return done(NVML_ERROR_NOT_SUPPORTED);
    NEED(index < (unsigned)g->migmax);
    for (int i = 0; g->mig && i < S.migs; i++) {
        const struct mig *each = &S.mig[i];
        if (strcasecmp(each->parent, g->uuid) || each->index != (number)index) continue;
        if (sees_mig(g, each)) return hand_out(g, each->uuid, mig);
    }
    return done(NVML_ERROR_NOT_FOUND);
}
API nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    ENTER_ANY(device); NEED(is_mig); *is_mig = m != NULL; DONE;
}
API nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    ENTER_ANY(device); NEED(id && m); *id = (unsigned)m->gi; DONE;
}
API nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    ENTER_ANY(device); NEED(id && m); *id = (unsigned)m->ci; DONE;
}
API nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t device, nvmlDevice_t *parent)
{
    ENTER_ANY(device); NEED(parent && m); return hand_out(g, g->uuid, parent);
}
static nvmlReturn_t attributes(const struct mig *m, nvmlDeviceAttributes_t *a)
{
    NEED(a);
    if (!m) return done(NVML_ERROR_NOT_SUPPORTED);
    memset(a, 0, sizeof *a);
    a->multiprocessorCount = (unsigned)m->sms;
    a->sharedCopyEngineCount = (unsigned)m->slices;
    a->gpuInstanceSliceCount = (unsigned)m->slices;
    a->computeInstanceSliceCount = (unsigned)m->slices;
    a->memorySizeMB = (unsigned long long)m->mem >> 20;
    DONE;
}
API nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *a)
{
    ENTER_ANY(device); return attributes(m, a);
}
API nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *a)
{
    ENTER_ANY(device); return attributes(m, a);
}

/* ---- processes ------------------------------------------------------------------- */

/* A caller's array that is too small gets the number needed and INSUFFICIENT_SIZE;
 * with no process at all, a size of zero is already enough. */
static nvmlReturn_t processes(const struct gpu *g, const struct mig *m, const char *kind,
    unsigned int *count, nvmlProcessInfo_t *infos)
{
    NEED(count);
    unsigned room = infos ? *count : 0, found = 0;
    for (int i = 0; i < S.procs; i++) {
        const struct proc *p = &S.proc[i];
        if (strcmp(p->kind, kind) || !runs_on(p, g, m)) continue;
        if (found++ >= room) continue;
        const struct mig *on = mig_of(p->uuid);
        infos[found - 1] = (nvmlProcessInfo_t) {
            .pid = (unsigned)p->pid,
            .usedGpuMemory = (unsigned long long)p->mem,
            .gpuInstanceId = on ? (unsigned)on->gi : NOT_MIG,
            .computeInstanceId = on ? (unsigned)on->ci : NOT_MIG,
        };
    }
    *count = found;
    return done(found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}
API nvmlDeviceGetComputeRunningProcesses_v3(
    nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    ENTER_ANY(device); return processes(g, m, "compute", count, infos);
}
API nvmlDeviceGetGraphicsRunningProcesses_v3(
    nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    ENTER_ANY(device); return processes(g, m, "graphics", count, infos);
}
API nvmlDeviceGetMPSComputeRunningProcesses_v3(
    nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    ENTER_ANY(device); return processes(g, m, "mps", count, infos);
}

/* NOT_FOUND is the idle answer: nothing has run since last_seen. A process that stopped
 * running since is told with the time at which it did, as the driver's buffer has it. */
API nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
    nvmlProcessUtilizationSample_t *samples, unsigned int *count,
    unsigned long long last_seen)
{
    ENTER_GPU(device);
    NEED(count);
    if (g->mig == 1) return done(NVML_ERROR_NOT_SUPPORTED);
    unsigned room = samples ? *count : 0, found = 0;
    number now = now_us();
    for (int i = 0; i < S.procs && now > (number)last_seen; i++) {
        const struct proc *p = &S.proc[i];
        int runs = p->sm || p->enc || p->dec || p->memutil;
        if (!runs_on(p, g, NULL) || !(runs || p->ran > (number)last_seen)) continue;
        if (found++ >= room) continue;
        samples[found - 1] = (nvmlProcessUtilizationSample_t) {
            .pid = (unsigned)p->pid,
            .timeStamp = (unsigned long long)(runs ? now : p->ran),
            .smUtil = (unsigned)(runs ? p->sm : p->ransm),
            .memUtil = (unsigned)p->memutil,
            .encUtil = (unsigned)p->enc,
            .decUtil = (unsigned)p->dec,
        };
    }
    *count = found;
    if (!found) return done(NVML_ERROR_NOT_FOUND);
    return done(found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

/* ---- memory limits of a cgroup --------------------------------------------------- */

/* As the driver, this opens the cgroup's folder as the calling process sees it. */
static int is_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* Limits live beside the state, one appended line each: other processes see them. */
static void limits_path(char *path, size_t size)
{
    snprintf(path, size, "%s.limits", state_path());
}

API nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device, nvmlSetMemoryLimits_v1_t *limits)
{
    ENTER_GPU(device);
    NEED(limits && limits->nameSpace && !strpbrk(limits->nameSpace, " \n"));
    NEED(limits->softLimit <= limits->hardLimit);
    NEED(limits->hardLimit <= (unsigned long long)g->mem
        || limits->hardLimit == NVML_DEVICE_MEMORY_LIMIT_MAX);
    if (!is_folder(limits->nameSpace)) return done(NVML_ERROR_OPERATING_SYSTEM);
    char path[4096], line[4352];
    limits_path(path, sizeof path);
    int n = snprintf(line, sizeof line, "%s %llu %llu %s\n", g->uuid, limits->softLimit,
        limits->hardLimit, limits->nameSpace);
    NEED(n < (int)sizeof line);
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return done(NVML_ERROR_NO_PERMISSION);
    ssize_t written = write(fd, line, (size_t)n);
    close(fd);
    return done(written == n ? NVML_SUCCESS : NVML_ERROR_OPERATING_SYSTEM);
}

/* True if the process is in the cgroup, whichever hierarchy names it. */
static int in_cgroup(number pid, const char *cgroup)
{
    char path[40], text[4096];
    snprintf(path, sizeof path, "/proc/%lld/cgroup", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    char *rest = NULL;
    for (char *l = strtok_r(text, "\n", &rest); l; l = strtok_r(NULL, "\n", &rest)) {
        const char *own = strchr(l, ':');
        own = own ? strchr(own + 1, ':') : NULL;
        if (!own || !own[1] || !own[2]) continue; /* the root contains everybody */
        size_t a = strlen(cgroup), b = strlen(++own);
        if (b <= a && !strcmp(cgroup + a - b, own)) return 1;
    }
    return 0;
}

API nvmlDeviceGetMemoryLimits_v1(nvmlDevice_t device, nvmlGetMemoryLimits_v1_t *limits)
{
    ENTER_GPU(device);
    NEED(limits && limits->nameSpace);
    if (!is_folder(limits->nameSpace)) return done(NVML_ERROR_OPERATING_SYSTEM);
    limits->softLimit = 0;
    limits->hardLimit = NVML_DEVICE_MEMORY_LIMIT_MAX;
    limits->currentUsed = 0;
    for (int i = 0; i < S.procs; i++)
        if (runs_on(&S.proc[i], g, NULL) && S.proc[i].mem > 0
            && in_cgroup(S.proc[i].pid, limits->nameSpace))
            limits->currentUsed += (unsigned long long)S.proc[i].mem;
    char path[4096], uuid[TEXT], cgroup[4096];
    limits_path(path, sizeof path);
    FILE *file = fopen(path, "re");
    if (!file) DONE;
    for (char line[4352]; fgets(line, sizeof line, file);) {
        /* sscanf would bind to a symbol of glibc 2.38 when built there. */
        char *rest = NULL, *word[4] = { strtok_r(line, " ", &rest) };
        for (int i = 1; i < 4; i++) word[i] = strtok_r(NULL, " \n", &rest);
        if (!word[0] || !word[3]) continue;
        COPY(uuid, word[0]);
        COPY(cgroup, word[3]);
        if (strcmp(uuid, g->uuid) || strcmp(cgroup, limits->nameSpace)) continue;
        limits->softLimit = (unsigned long long)to_number(word[1]);
        limits->hardLimit = (unsigned long long)to_number(word[2]);
    }
    fclose(file);
    DONE;
}

/* ---- events ---------------------------------------------------------------------- */

static const unsigned long long SUPPORTED_EVENTS = nvmlEventTypeSingleBitEccError
    | nvmlEventTypeDoubleBitEccError | nvmlEventTypeXidCriticalError
    | nvmlEventTypeGpuUnavailableError | nvmlEventTypeGpuRecoveryAction;

API nvmlEventSetCreate(nvmlEventSet_t *set)
{
    ENTER();
    NEED(set);
    *set = calloc(1, sizeof **set);
    if (!*set) return done(NVML_ERROR_MEMORY);
    for (int i = 0; i < S.events; i++)
        if (S.event[i].seq > (*set)->seen) (*set)->seen = S.event[i].seq;
    DONE;
}
API nvmlEventSetFree(nvmlEventSet_t set) { ENTER(); NEED(set); free(set); DONE; }
API nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    ENTER_GPU(device); NEED(types); *types = SUPPORTED_EVENTS; DONE;
}
API nvmlDeviceRegisterEvents(
    nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    ENTER_GPU(device);
    NEED(set);
    if (types & ~SUPPORTED_EVENTS) return done(NVML_ERROR_NOT_SUPPORTED);
    if (set->watched == MAX_HANDLES) return done(NVML_ERROR_INSUFFICIENT_RESOURCES);
    set->watch[set->watched].device = device;
    set->watch[set->watched++].types = (number)types;
    DONE;
}

/* The oldest event that this set has not seen and asked for, or NULL. */
static const struct event *next_event(nvmlEventSet_t set, nvmlDevice_t *device)
{
    const struct event *first = NULL;
    for (int i = 0; i < S.events; i++) {
        const struct event *e = &S.event[i];
        if (e->seq <= set->seen || (first && e->seq >= first->seq)) continue;
        for (int w = 0; w < set->watched; w++)
            if ((set->watch[w].types & e->type)
                && !strcasecmp(set->watch[w].device->uuid, e->uuid)) {
                first = e;
                *device = set->watch[w].device;
            }
    }
    return first;
}

static nvmlReturn_t wait_event(
    const char *fn, nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    number until = monotonic_ms() + timeout_ms;
    for (;;) {
        nvmlReturn_t code = enter(fn);
        if (code) return code;
        NEED(set && data);
        nvmlDevice_t device = NULL;
        const struct event *e = next_event(set, &device);
        if (e) {
            set->seen = e->seq;
            *data = (nvmlEventData_t) { device, (unsigned long long)e->type,
                (unsigned long long)e->data, e->gi < 0 ? NOT_MIG : (unsigned)e->gi, NOT_MIG };
            DONE;
        }
        done(NVML_SUCCESS);
        number left = until - monotonic_ms();
        if (left <= 0) return NVML_ERROR_TIMEOUT;
        nap_ms(left < 20 ? left : 20); /* the real one sleeps until the event */
    }
}
API nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    return wait_event(__func__, set, data, timeout_ms);
}
API nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    return wait_event(__func__, set, data, timeout_ms);
}
