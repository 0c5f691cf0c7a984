// A stand-in for NVIDIA's management library, just enough of it for a zeusd: as
// many GPUs as NVML_STANDIN_FILE has lines, each line being what one GPU does:
//
//   POWER ERROR HANG_MS
//
// POWER is its power in milliwatts, or "clock": 100 W and one milliwatt more with
// each millisecond of the clock, from the start of each ten minutes on. ERROR is
// the NVML return code of every question about the GPU, 0 for success. HANG_MS is
// how long such a question hangs before it is answered. The file is read anew for
// every question, so that a test changes what the driver does by replacing it; a
// hanging question looks at it again and again, and ends when the file says so.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
enum { MAX_GPUS = 16, FIELD_POWER_INSTANT = 186, TYPE_UNSIGNED_INT = 1, POWER_LIMIT_MW = 700000 };

typedef struct {
	unsigned power_mw;
	int error;
	unsigned hang_ms;
} gpu;

typedef struct {
	unsigned field_id, scope_id;
	long long timestamp, latency_us;
	int value_type, nvml_return;
	union {
		unsigned ui;
		unsigned long long ull;
	} value;
} field_value;

static long long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int read_gpus(gpu *gpus)
{
	const char *path = getenv("NVML_STANDIN_FILE");
	FILE *f = path ? fopen(path, "r") : NULL;
	if (!f)
		return 0;
	int n = 0;
	char power[32];
	while (n < MAX_GPUS && fscanf(f, "%31s %d %u", power, &gpus[n].error, &gpus[n].hang_ms) == 3) {
		gpus[n].power_mw = strcmp(power, "clock") == 0 ? (unsigned)(100000 + now_ms() % 600000) : (unsigned)strtoul(power, NULL, 10);
		n++;
	}
	fclose(f);
	return n;
}

// ask is any question about a GPU: it hangs and fails as the file says.
static int ask(void *device, gpu *answer)
{
	gpu gpus[MAX_GPUS];
	int index = (int)(intptr_t)device - 1;
	for (long long began = now_ms();;) {
		if (index >= read_gpus(gpus))
			return GPU_IS_LOST;
		*answer = gpus[index];
		if (now_ms() - began >= answer->hang_ms)
			return answer->error;
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code)
{
	static char text[32];
	snprintf(text, sizeof text, "NVML error %d", code);
	return text;
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
	gpu gpus[MAX_GPUS];
	*count = read_gpus(gpus);
	return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
	*device = (void *)(intptr_t)(index + 1);
	return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length)
{
	snprintf(name, length, "Stand-in GPU %d", (int)(intptr_t)device - 1);
	return SUCCESS;
}

int nvmlDeviceGetFieldValues(void *device, int count, field_value *values)
{
	gpu g;
	int error = ask(device, &g);
	for (int i = 0; i < count; i++) {
		values[i].timestamp = now_ms() * 1000;
		values[i].latency_us = 0;
		values[i].nvml_return = values[i].field_id == FIELD_POWER_INSTANT ? error : NOT_SUPPORTED;
		values[i].value_type = TYPE_UNSIGNED_INT;
		values[i].value.ull = g.power_mw;
	}
	return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules)
{
	gpu g;
	int error = ask(device, &g);
	*millijoules = (unsigned long long)now_ms() * g.power_mw / 1000; // as if it had always drawn that
	return error;
}

int nvmlDeviceGetPowerManagementLimit(void *device, unsigned *milliwatts)
{
	gpu g;
	int error = ask(device, &g);
	*milliwatts = POWER_LIMIT_MW;
	return error;
}

int nvmlDeviceGetPowerManagementLimitConstraints(void *device, unsigned *least, unsigned *most)
{
	gpu g;
	int error = ask(device, &g);
	*least = 200000;
	*most = POWER_LIMIT_MW;
	return error;
}
