. /mnt/type.sh
mkdir -p /srv/hub && cp -r /mnt/hub/backend.py /mnt/hub/k8s /mnt/hub/frontend /srv/hub && cd /srv/hub
python3 backend.py seed --agents 5000
type_and_run 'ls'
type_and_run 'lifeboat init --yes' 3
type_and_run 'grep -v "#" lifeboat.yaml' 4
type_and_run 'lifeboat validate' 3
type_and_run 'lifeboat backup' 2
type_and_run 'lifeboat drill server-lost' 4
type_and_run 'lifeboat status' 3
type_and_run 'rm -r data k8s      # the bad day' 1
type_and_run 'lifeboat diagnose' 3
type_and_run 'lifeboat recover server-lost --yes' 4
type_and_run 'sqlite3 data/devops_hub.db "select count(*) from agents"' 2
type_and_run 'lifeboat report latest | head -30' 5
