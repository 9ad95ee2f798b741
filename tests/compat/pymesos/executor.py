"""A custom executor over pymesos: what a task does is in its data.

finish: TASK_RUNNING, TASK_FINISHED.   wait: runs until killed.
Framework messages come back with "echo:" before them.
"""
import sys
import threading

from pymesos import Executor, MesosExecutorDriver, decode_data, encode_data


class TestExecutor(Executor):
    def __init__(self):
        self.lock = threading.Lock()

    def send(self, driver, task_id, state, message=''):
        with self.lock:
            driver.sendStatusUpdate(dict(task_id=task_id, state=state, message=message))

    def launchTask(self, driver, task):
        action = decode_data(task['data']).decode()
        self.send(driver, task['task_id'], 'TASK_RUNNING')
        if action == 'finish':
            self.send(driver, task['task_id'], 'TASK_FINISHED', 'done by pymesos')
        print('launched', task['task_id']['value'], action)
        sys.stdout.flush()

    def killTask(self, driver, task_id):
        self.send(driver, task_id, 'TASK_KILLED', 'killed by pymesos')

    def frameworkMessage(self, driver, message):
        driver.sendFrameworkMessage(encode_data(b'echo:' + decode_data(message)))

    def shutdown(self, driver):
        print('shutdown')
        sys.stdout.flush()

    def error(self, driver, message):
        print('error', message)
        sys.stdout.flush()


if __name__ == '__main__':
    driver = MesosExecutorDriver(TestExecutor())
    driver.run()
