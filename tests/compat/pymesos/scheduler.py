"""Scenarios of an unmodified pymesos scheduler against a master.

usage: scheduler.py MASTER SCENARIO     (prints what happened; exit 0 = as expected)
  tasks      200 command tasks to TASK_FINISHED
  kill       a running task, killed, is TASK_KILLED
  executor   200 tasks, a message both ways and a kill through executor.py
  bare       an executor without resources outlives its last task
  failover   a second scheduler takes over the id; the task runs on and is reconciled
"""
import os
import sys
import threading
import time

from pymesos import MesosSchedulerDriver, Scheduler, decode_data, encode_data

HERE = os.path.dirname(os.path.abspath(__file__))
TERMINAL = ('TASK_FINISHED', 'TASK_FAILED', 'TASK_KILLED', 'TASK_LOST', 'TASK_ERROR',
            'TASK_DROPPED', 'TASK_GONE')
LIMIT = 150


def resources(cpus, mem):
    return [dict(name='cpus', type='SCALAR', scalar=dict(value=cpus)),
            dict(name='mem', type='SCALAR', scalar=dict(value=mem))]


def amount(offer, name):
    return sum(r['scalar']['value'] for r in offer['resources'] if r['name'] == name)


class Recorder(Scheduler):
    """Launches what is queued, records everything."""

    def __init__(self):
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.queue = []
        self.states = {}      # task -> [states]
        self.agents = {}      # task -> agent id
        self.messages = []
        self.errors = []
        self.registrations = []

    def registered(self, driver, framework_id, master_info):
        self.registrations.append(framework_id['value'])

    def reregistered(self, driver, master_info):
        self.registrations.append('again')

    def error(self, driver, message):
        self.errors.append(message)

    def resourceOffers(self, driver, offers):
        for offer in offers:
            cpus, mem = amount(offer, 'cpus'), amount(offer, 'mem')
            taken = []
            with self.lock:
                while self.queue:
                    task = self.queue[0]
                    need = {r['name']: r['scalar']['value'] for r in task['resources']}
                    if 'executor' in task and not self.agents.get('executor'):
                        need = {n: v + {'cpus': .1, 'mem': 32}[n] for n, v in need.items()}
                    if need['cpus'] > cpus + 1e-9 or need['mem'] > mem + 1e-9:
                        break
                    cpus, mem = cpus - need['cpus'], mem - need['mem']
                    task = dict(self.queue.pop(0), agent_id=offer['agent_id'])
                    self.agents[task['task_id']['value']] = offer['agent_id']
                    if 'executor' in task:
                        self.agents['executor'] = offer['agent_id']
                    taken.append(task)
            driver.launchTasks(offer['id'], taken, dict(refuse_seconds=0.2))

    def statusUpdate(self, driver, status):
        with self.changed:
            states = self.states.setdefault(status['task_id']['value'], [])
            if not states or states[-1] != status['state']:
                states.append(status['state'])
            if status['state'] in ('TASK_FAILED', 'TASK_LOST', 'TASK_ERROR', 'TASK_DROPPED'):
                print(status)
            self.changed.notify_all()

    def frameworkMessage(self, driver, executor_id, agent_id, message):
        with self.changed:
            self.messages.append(decode_data(message))
            self.changed.notify_all()

    def wait(self, what, condition):
        end = time.time() + LIMIT
        with self.changed:
            while not condition():
                if self.errors or time.time() > end:
                    count = {}
                    for states in self.states.values():
                        count[states[-1]] = count.get(states[-1], 0) + 1
                    raise SystemExit('waited for %s: errors %s, states %s, queued %d' % (
                        what, self.errors, count, len(self.queue)))
                self.changed.wait(1)

    def last(self, task):
        return self.states.get(task, [None])[-1]


def framework(name, **more):
    return dict(user='root', name=name, checkpoint=True, failover_timeout=60.0, **more)


def start(scheduler, master, info):
    driver = MesosSchedulerDriver(scheduler, info, master)
    driver.start()
    return driver


def command(i, line, cpus=0.1):
    return dict(task_id=dict(value='t%d' % i), name='t%d' % i,
                resources=resources(cpus, 32), command=dict(shell=True, value=line))


def finish(driver):
    driver.stop()
    driver.join()


def all_finished(scheduler, names):
    scheduler.wait('200 x TASK_FINISHED', lambda: all(scheduler.last(n) in TERMINAL for n in names))
    ends = [scheduler.last(n) for n in names]
    assert ends.count('TASK_FINISHED') == len(names), {e: ends.count(e) for e in ends}
    for name in names:
        states = scheduler.states[name]
        assert 'TASK_RUNNING' in states, (name, states)
        assert sum(s in TERMINAL for s in states) == 1, (name, states)


def tasks(master):
    scheduler = Recorder()
    scheduler.queue = [command(i, 'echo task %d' % i) for i in range(200)]
    driver = start(scheduler, master, framework('pymesos-tasks'))
    all_finished(scheduler, ['t%d' % i for i in range(200)])
    finish(driver)


def kill(master):
    scheduler = Recorder()
    scheduler.queue = [command(0, 'sleep 1000')]
    driver = start(scheduler, master, framework('pymesos-kill'))
    scheduler.wait('TASK_RUNNING', lambda: scheduler.last('t0') == 'TASK_RUNNING')
    driver.killTask(dict(value='t0'))
    scheduler.wait('the end', lambda: scheduler.last('t0') in TERMINAL)
    assert scheduler.last('t0') == 'TASK_KILLED', scheduler.states
    finish(driver)


def custom(**more):
    path = os.pathsep.join([HERE] + [p for p in sys.path if p.endswith('site-packages')])
    return dict(
        executor_id=dict(value='pymesos-executor'), name='pymesos-executor', type='CUSTOM',
        command=dict(value='exec %s %s' % (sys.executable, os.path.join(HERE, 'executor.py')),
                     environment=dict(variables=[dict(name='PYTHONPATH', value=path)])), **more)


def executor(master):
    scheduler = Recorder()
    info = custom(resources=resources(0.1, 32))

    def task(name, action):
        return dict(task_id=dict(value=name), name=name, resources=resources(0.01, 1),
                    executor=info, data=encode_data(action))

    names = ['e%d' % i for i in range(200)]
    scheduler.queue = [task('stay', b'wait')] + [task(n, b'finish') for n in names]
    driver = start(scheduler, master, framework('pymesos-executor'))
    all_finished(scheduler, names)
    scheduler.wait('the waiting task', lambda: scheduler.last('stay') == 'TASK_RUNNING')
    driver.sendFrameworkMessage(info['executor_id'], scheduler.agents['stay'],
                                encode_data(b'hello \x00\xff'))
    scheduler.wait('the echo', lambda: scheduler.messages)
    assert scheduler.messages == [b'echo:hello \x00\xff'], scheduler.messages
    driver.killTask(dict(value='stay'))
    scheduler.wait('the kill', lambda: scheduler.last('stay') == 'TASK_KILLED')
    finish(driver)


def bare(master):
    scheduler = Recorder()
    info = custom()

    def task(name):
        return dict(task_id=dict(value=name), name=name, resources=resources(0.1, 64),
                    executor=info, data=encode_data(b'finish'))

    scheduler.queue = [task('first')]
    driver = start(scheduler, master, framework('pymesos-bare'))
    scheduler.wait('the first end', lambda: scheduler.last('first') in TERMINAL)
    assert scheduler.last('first') == 'TASK_FINISHED', scheduler.states
    # A container that is being destroyed is gone by then.
    time.sleep(1)
    driver.sendFrameworkMessage(info['executor_id'], scheduler.agents['first'],
                                encode_data(b'there?'))
    scheduler.wait('the echo', lambda: scheduler.messages)
    scheduler.queue = [task('second')]
    scheduler.wait('the second end', lambda: scheduler.last('second') in TERMINAL)
    assert scheduler.last('second') == 'TASK_FINISHED', scheduler.states
    finish(driver)


def failover(master):
    first = Recorder()
    first.queue = [command(0, 'sleep 1000')]
    driver = start(first, master, framework('pymesos-failover'))
    first.wait('TASK_RUNNING', lambda: first.last('t0') == 'TASK_RUNNING')
    identity = driver.framework_id
    driver.stop(failover=True)
    driver.join()

    second = Recorder()
    again = start(second, master, framework('pymesos-failover', id=dict(value=identity)))
    second.wait('registration', lambda: second.registrations)
    assert again.framework_id == identity, (identity, again.framework_id)
    again.reconcileTasks([dict(task_id=dict(value='t0'))])
    second.wait('reconciliation', lambda: second.last('t0') == 'TASK_RUNNING')
    again.killTask(dict(value='t0'))
    second.wait('the kill', lambda: second.last('t0') == 'TASK_KILLED')
    finish(again)


if __name__ == '__main__':
    {'tasks': tasks, 'kill': kill, 'executor': executor, 'bare': bare,
     'failover': failover}[sys.argv[2]](sys.argv[1])
    print('ok')
