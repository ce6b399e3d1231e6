/* libbmlib's part of the stand-in: handles, device memory that is apart from the host's, copies, syncs.

   Device addresses are numbers from 0x100000000 up, never host pointers; each allocation has a gap behind it
   and is filled with 0xFF (NaN) when it is made and when it is freed. What a program must never do (free
   twice, use a handle that is gone) aborts. Handles know nothing of each other: what is queued belongs to the
   thread and the handle that it was launched by. */
#define _GNU_SOURCE
#include "standin.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST 0x100000000ull
#define LAST 0x500000000ull
#define GAP 4096ull
#define MAGIC 0x76736874u

struct bm_context { unsigned magic; int devid; int64_t thread, threads; };
typedef struct { uint64_t address, size; char *host; } block_t;
typedef struct job { struct job *next; bm_handle_t handle; pthread_t thread; void (*run)(void *); void *what; } job_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block_t *blocks;
static int block_count, block_room;
static uint64_t next_address = FIRST;
static job_t *jobs, **jobs_end = &jobs;
static control_t private_page, *page;

static void fatal(const char *what) {
    fprintf(stderr, "STANDIN: %s\n", what);
    fflush(stderr);
    abort();
}

control_t *standin_control(void) {
    if (page) return page;
    const char *path = getenv("VLSTANDIN_CONTROL");
    int file = path ? open(path, O_RDWR) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (path && found == MAP_FAILED) fatal("the control file cannot be mapped");
    if (file >= 0) close(file);
    return page = path ? found : &private_page;
}

static void check(bm_handle_t handle) {
    if (!handle || handle->magic != MAGIC) fatal("this is no handle, or it was freed");
}

static __thread int inside; /* of calls: libbmrt's use those of libbmlib */

static void raise_to(int64_t *most, int64_t value) { if (value > *most) *most = value; }

void standin_enter(bm_handle_t handle) {
    control_t *control = standin_control();
    if (!inside++) raise_to(&control->most_callers, __sync_add_and_fetch(&control->callers, 1));
    if (!handle) return;
    check(handle);
    int64_t me = (int64_t)gettid();
    if (handle->thread != me) { handle->thread = me; raise_to(&control->threads, ++handle->threads); }
}

void standin_leave(void) { if (!--inside) __sync_sub_and_fetch(&standin_control()->callers, 1); }

int standin_fault(int function) {
    control_t *control = standin_control();
    __sync_add_and_fetch(&control->faults[function].calls, 1);
    int64_t left = control->faults[function].countdown;
    if (left <= 0) return 0;
    if (left > 1) { control->faults[function].countdown = left - 1; return 0; }
    if (!control->faults[function].sticky) control->faults[function].countdown = 0;
    int code = (int)control->faults[function].code;
    return code ? code : BM_ERR_FAILURE;
}

#define BEGIN(name, handle) standin_enter(handle); bm_status_t status = (bm_status_t)standin_fault(FAULT_##name)
#define END standin_leave(); return status
#define FINE (status == BM_SUCCESS)

static block_t *block_of(uint64_t address) {
    int low = 0, high = block_count; /* sorted, as addresses only grow */
    while (low < high) {
        int middle = (low + high) / 2;
        if (blocks[middle].address + blocks[middle].size <= address) low = middle + 1; else high = middle;
    }
    return low < block_count && blocks[low].address <= address ? &blocks[low] : NULL;
}

void *standin_at(uint64_t address, uint64_t size) {
    pthread_mutex_lock(&lock);
    block_t *block = address >= FIRST && address < LAST ? block_of(address) : NULL;
    void *host = block && block->host && address + size <= block->address + block->size
        ? block->host + (address - block->address) : NULL;
    if (!host) standin_control()->host_refused++;
    pthread_mutex_unlock(&lock);
    return host;
}

void standin_enqueue(bm_handle_t handle, void (*run)(void *), void *what) {
    job_t *job = malloc(sizeof *job);
    *job = (job_t){NULL, handle, pthread_self(), run, what};
    pthread_mutex_lock(&lock);
    *jobs_end = job;
    jobs_end = &job->next;
    pthread_mutex_unlock(&lock);
}

/* Take the next job of a handle out of the queue: of any thread, or of this one. NULL when there is none. */
static job_t *next_job(bm_handle_t handle, bool any_thread) {
    pthread_mutex_lock(&lock);
    job_t **place = &jobs;
    while (*place && ((*place)->handle != handle || !(any_thread || pthread_equal((*place)->thread, pthread_self()))))
        place = &(*place)->next;
    job_t *job = *place;
    if (job) { *place = job->next; if (!job->next) jobs_end = place; }
    pthread_mutex_unlock(&lock);
    return job;
}

void standin_drain(bm_handle_t handle) {
    for (job_t *job; (job = next_job(handle, false));) {
        job->run(job->what);
        free(job);
    }
}

void standin_discard(bm_handle_t handle) {
    for (job_t *job; (job = next_job(handle, true));) {
        free(job->what);
        free(job);
    }
}

/* End the process if anything is queued on a handle; the lock is held. */
static void must_be_idle(bm_handle_t handle, const char *what) {
    for (job_t *job = jobs; job; job = job->next) if (job->handle == handle) fatal(what);
}

bm_status_t bm_dev_getcount(int *count) {
    BEGIN(bm_dev_getcount, NULL);
    if (FINE) *count = standin_control()->devices ? (int)standin_control()->devices : 1;
    END;
}

bm_status_t bm_dev_request(bm_handle_t *handle, int devid) {
    BEGIN(bm_dev_request, NULL);
    int64_t devices = standin_control()->devices ? standin_control()->devices : 1;
    if (FINE && (devid < 0 || devid >= devices)) status = BM_ERR_FAILURE;
    if (FINE) {
        *handle = malloc(sizeof **handle);
        **handle = (struct bm_context){.magic = MAGIC, .devid = devid};
        __sync_add_and_fetch(&standin_control()->live_handles, 1);
    }
    END;
}

void bm_dev_free(bm_handle_t handle) {
    standin_enter(handle);
    standin_fault(FAULT_bm_dev_free);
    pthread_mutex_lock(&lock);
    must_be_idle(handle, "a handle is freed under a launch");
    pthread_mutex_unlock(&lock);
    standin_leave();
    handle->magic = 0;
    free(handle);
    __sync_sub_and_fetch(&standin_control()->live_handles, 1);
}

bm_status_t bm_get_chipid(bm_handle_t handle, unsigned int *chip) {
    BEGIN(bm_get_chipid, handle);
    if (FINE) *chip = 0x1686;
    END;
}

static int64_t limit(void) { return standin_control()->limit_bytes ? standin_control()->limit_bytes : 15ll << 30; }

bm_status_t bm_get_stat(bm_handle_t handle, bm_dev_stat_t *stat) {
    BEGIN(bm_get_stat, handle);
    if (FINE) {
        memset(stat, 0, sizeof *stat);
        unsigned total = (unsigned)(limit() >> 20), used = (unsigned)(standin_control()->live_bytes >> 20), other = 8;
        stat->mem_total = (int)(total + other);
        stat->mem_used = (int)used;
        stat->heap_num = 2; /* as a box has them; what is allocated lies in the first */
        stat->heap_stat[0] = (bm_heap_stat_t){total, total - used, used};
        stat->heap_stat[1] = (bm_heap_stat_t){other, other, 0};
    }
    END;
}

bm_status_t bm_malloc_device_byte(bm_handle_t handle, bm_device_mem_t *memory, unsigned int size) {
    BEGIN(bm_malloc_device_byte, handle);
    pthread_mutex_lock(&lock);
    uint64_t whole = (size + GAP - 1) / GAP * GAP;
    if (FINE && size == 0) status = BM_ERR_PARAM;
    if (FINE && (standin_control()->live_bytes + (int64_t)size > limit() || next_address + whole + GAP >= LAST))
        status = BM_ERR_NOMEM;
    if (FINE) {
        if (block_count == block_room) {
            block_room = block_room ? 2 * block_room : 64;
            blocks = realloc(blocks, block_room * sizeof *blocks);
        }
        char *host = malloc(size);
        memset(host, 0xFF, size);
        blocks[block_count++] = (block_t){next_address, size, host};
        memset(memory, 0, sizeof *memory);
        memory->u.device.device_addr = next_address;
        memory->size = size;
        next_address += whole + GAP;
        standin_control()->live_bytes += size;
        standin_control()->live_blocks++;
    }
    pthread_mutex_unlock(&lock);
    END;
}

void bm_free_device(bm_handle_t handle, bm_device_mem_t memory) {
    standin_enter(handle);
    standin_fault(FAULT_bm_free_device);
    pthread_mutex_lock(&lock);
    must_be_idle(handle, "device memory is freed under a launch");
    block_t *block = block_of(memory.u.device.device_addr);
    if (!block || block->address != memory.u.device.device_addr || block->size != memory.size)
        fatal("what is freed was never allocated");
    if (!block->host) fatal("device memory is freed twice");
    free(block->host);
    block->host = NULL;
    standin_control()->live_bytes -= (int64_t)block->size;
    standin_control()->live_blocks--;
    pthread_mutex_unlock(&lock);
    standin_leave();
}

bm_status_t bm_memcpy_s2d_partial_offset(
    bm_handle_t handle, bm_device_mem_t target, void *source, unsigned int size, unsigned int offset) {
    BEGIN(bm_memcpy_s2d_partial_offset, handle);
    if (FINE && (uint64_t)offset + size > target.size) status = BM_ERR_PARAM;
    void *host = FINE ? standin_at(target.u.device.device_addr + offset, size) : NULL;
    if (FINE && !host) status = BM_ERR_PARAM;
    if (FINE) memcpy(host, source, size);
    END;
}

bm_status_t bm_memcpy_d2s_partial_offset(
    bm_handle_t handle, void *target, bm_device_mem_t source, unsigned int size, unsigned int offset) {
    BEGIN(bm_memcpy_d2s_partial_offset, handle);
    if (FINE && (uint64_t)offset + size > source.size) status = BM_ERR_PARAM;
    void *host = FINE ? standin_at(source.u.device.device_addr + offset, size) : NULL;
    if (FINE && !host) status = BM_ERR_PARAM;
    if (FINE) memcpy(target, host, size);
    END;
}

bm_status_t bm_memcpy_d2d_byte(bm_handle_t handle, bm_device_mem_t target, size_t target_offset,
                               bm_device_mem_t source, size_t source_offset, size_t size) {
    BEGIN(bm_memcpy_d2d_byte, handle);
    if (FINE) standin_drain(handle);
    if (FINE && (target_offset + size > target.size || source_offset + size > source.size)) status = BM_ERR_PARAM;
    void *to = FINE ? standin_at(target.u.device.device_addr + target_offset, size) : NULL;
    void *from = FINE ? standin_at(source.u.device.device_addr + source_offset, size) : NULL;
    if (FINE && (!to || !from)) status = BM_ERR_PARAM;
    if (FINE) memmove(to, from, size);
    END;
}

bm_status_t bm_memset_device_ext(bm_handle_t handle, void *value, int mode, bm_device_mem_t memory) {
    BEGIN(bm_memset_device_ext, handle);
    if (FINE) standin_drain(handle);
    char *host = FINE ? standin_at(memory.u.device.device_addr, memory.size) : NULL;
    if (FINE && (!host || mode < 1 || mode > 4)) status = BM_ERR_PARAM;
    if (FINE) for (unsigned i = 0; i < memory.size; i++) host[i] = ((char *)value)[i % mode];
    END;
}

bm_status_t bm_thread_sync(bm_handle_t handle) {
    BEGIN(bm_thread_sync, handle);
    if (FINE) standin_drain(handle);
    END;
}
