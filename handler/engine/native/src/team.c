/* A team of threads that works through the phases of a step: a few milliseconds, hundreds of phases.
 *
 * A phase ends when its items are done, not when every thread has come by: a thread that the system has put aside
 * between two items holds nobody up, and finds its way back into whichever phase is current. Threads wait by spinning
 * for some microseconds, since the next phase is near, then sleep, so that the system can run a thread that was put
 * aside in the middle of an item. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pilotlight.h"

enum { SPINS = 1000 };
enum { ITEM_BITS = 18 };
_Static_assert(PL_MAX_ITEMS < 1 << ITEM_BITS, "the number of an item fits its bits");

struct pl_team {
    int size;
    pthread_t *threads;
    pl_count count;
    pl_work work;
    void *argument;
    int num_phases;
    int phase;      /* of this step; changed by the thread that ends a phase */
    uint64_t stage; /* phases of all steps so far: tells apart what would look alike; changed likewise */
    atomic_int is_ending;
    _Alignas(64) _Atomic uint64_t current; /* stage, number of items and next item in one word, see `pack` */
    _Alignas(64) atomic_int done;          /* items of the current phase */
    _Alignas(64) atomic_uint epoch;        /* changes with every new phase; sleepers wait for that */
    atomic_int sleepers;
};

typedef struct {
    pl_team *team;
    int thread;
} worker_start;

static uint64_t pack(uint64_t stage, int items) { return stage << (2 * ITEM_BITS) | (uint64_t)items << ITEM_BITS; }

static int items_of(uint64_t current) { return (int)(current >> ITEM_BITS & PL_MAX_ITEMS); }

static int next_of(uint64_t current) { return (int)(current & PL_MAX_ITEMS); }

static void announce(pl_team *team)
{
    atomic_fetch_add(&team->epoch, 1);
    if (atomic_load(&team->sleepers) > 0)
        syscall(SYS_futex, &team->epoch, FUTEX_WAKE_PRIVATE, 1 << 20, NULL, NULL, 0);
}

/* Make the first phase from `phase` on that has items the current one; behind the last, one without items. */
static void enter(pl_team *team, int phase)
{
    int items = 0;
    while (phase < team->num_phases && (items = team->count(team->argument, phase)) == 0)
        phase++;
    team->phase = phase;
    atomic_store_explicit(&team->done, 0, memory_order_relaxed);
    atomic_store(&team->current, pack(++team->stage, items));
    announce(team);
}

/* Wait until `current` is no longer `seen`. */
static void wait_for_change(pl_team *team, uint64_t seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&team->current, memory_order_acquire) != seen)
            return;
        _mm_pause();
    }
    atomic_fetch_add(&team->sleepers, 1);
    unsigned epoch = atomic_load(&team->epoch);
    if (atomic_load(&team->current) == seen && !atomic_load(&team->is_ending))
        syscall(SYS_futex, &team->epoch, FUTEX_WAIT_PRIVATE, epoch, NULL, NULL, 0);
    atomic_fetch_sub(&team->sleepers, 1);
}

/* Do items until there is none to take. The phase cannot change while this thread has one. */
static uint64_t work_on(pl_team *team, int thread)
{
    for (;;) {
        uint64_t current = atomic_load_explicit(&team->current, memory_order_acquire);
        if (next_of(current) >= items_of(current))
            return current;
        if (!atomic_compare_exchange_weak_explicit(&team->current, &current, current + 1, memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        team->work(team->argument, team->phase, next_of(current), thread);
        if (atomic_fetch_add_explicit(&team->done, 1, memory_order_acq_rel) + 1 == items_of(current))
            enter(team, team->phase + 1);
    }
}

static void *worker(void *argument)
{
    worker_start start = *(worker_start *)argument;
    free(argument);
    while (!atomic_load(&start.team->is_ending))
        wait_for_change(start.team, work_on(start.team, start.thread));
    return NULL;
}

pl_team *pl_team_create(int threads)
{
    pl_team *team = aligned_alloc(64, sizeof *team);
    if (team == NULL)
        return NULL;
    memset(team, 0, sizeof *team);
    team->size = 1;
    team->threads = calloc((size_t)threads, sizeof *team->threads);
    for (; team->threads != NULL && team->size < threads; team->size++) {
        worker_start *start = malloc(sizeof *start);
        if (start == NULL)
            break;
        *start = (worker_start){team, team->size};
        if (pthread_create(&team->threads[team->size], NULL, worker, start) != 0) {
            free(start);
            break;
        }
    }
    return team;
}

void pl_team_destroy(pl_team *team)
{
    atomic_store(&team->is_ending, 1);
    announce(team);
    for (int thread = 1; thread < team->size; thread++)
        pthread_join(team->threads[thread], NULL);
    free(team->threads);
    free(team);
}

int pl_team_size(const pl_team *team) { return team->size; }

void pl_team_run(pl_team *team, int num_phases, pl_count count, pl_work work, void *argument)
{
    team->num_phases = num_phases;
    team->count = count;
    team->work = work;
    team->argument = argument;
    enter(team, 0);
    for (;;) {
        uint64_t current = work_on(team, 0);
        if (items_of(current) == 0)
            return;
        wait_for_change(team, current);
    }
}
